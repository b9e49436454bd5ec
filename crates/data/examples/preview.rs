//! Writes generated chest X-rays as one grey image (PGM): four of each class, one row a hospital.
//! `cargo run -p consilium-data --example preview -- preview.pgm`.

use consilium_core::Seed;
use consilium_data::generated::{GeneratedKind, cohort, quickstart};
use consilium_data::{Part, Scaling};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).unwrap_or("preview.pgm".to_owned());
    let raw = Scaling {
        mean: vec![128.0],
        standard_deviation: vec![32.0],
        ..Scaling::default()
    };
    let mut pixels = Vec::new();
    for spec in quickstart() {
        if spec.kind != GeneratedKind::Xray {
            continue;
        }
        let cohort = cohort(&spec, Seed(1))?;
        let prepared = cohort.prepare_with(&raw)?;
        let labels = cohort.targets().labels().unwrap_or_default();
        let of = |class| {
            let all = cohort.records_in(Part::Train).into_iter();
            all.filter(move |&r| labels[r] == class).take(4)
        };
        let shown: Vec<&[f32]> = (of(0).chain(of(1)))
            .filter_map(|record| prepared.examples().record(record))
            .collect();
        for row in 0..32 {
            for image in &shown {
                let row = &image[row * 32..(row + 1) * 32];
                pixels.extend(row.iter().map(|v| (v * 32.0 + 128.0) as u8));
            }
        }
    }
    let mut file = format!("P5 256 {} 255\n", pixels.len() / 256).into_bytes();
    file.extend(pixels);
    std::fs::write(path, file)?;
    Ok(())
}
