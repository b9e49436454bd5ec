//! Prints what a cohort holds, or everything that is wrong with it:
//! `cargo run -p consilium-data --example describe -- cohort.toml`.

use std::path::Path;

use consilium_data::{Cohort, describe};

fn main() {
    for path in std::env::args().skip(1) {
        match Cohort::read(Path::new(&path)) {
            Ok(cohort) => println!("{}", describe(&cohort)),
            Err(refusal) => println!("{refusal}"),
        }
    }
}
