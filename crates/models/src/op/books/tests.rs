//! A weight that is used for two views: what its norm is when they agree, and when they cancel.

use burn::tensor::{Device, Tensor, TensorData};

use super::*;
use crate::patients::faults::with;

const SIDE: usize = 8;
const RECORDS: usize = 4;
const OF_RECORD: [usize; RECORDS] = [0, 0, 1, 2];

fn wave(len: usize, phase: f32) -> Vec<f32> {
    (0..len).map(|i| (i as f32 * 0.73 + phase).sin()).collect()
}

/// Squared norms and the sum of the gradients of an 8x8 weight that is applied to two views of `pixels` pixels.
fn two_views(pixels: usize, views: [&[f32]; 2], dy: [&[f32]; 2]) -> (Vec<f64>, Vec<f32>) {
    let device = Device::flex().autodiff();
    let weight = TensorData::new(wave(SIDE * SIDE, 0.2), [SIDE, SIDE]);
    let weight = Tensor::<2>::from_data(weight, &device).require_grad();
    let columns = pixels * RECORDS;
    let shape = Product {
        inputs: SIDE,
        outputs: SIDE,
        groups: 1,
        columns,
    };
    let mut tape = Tape::default();
    let outputs = views.map(|view| {
        let view = TensorData::new(view.to_vec(), [SIDE, columns]);
        let x = tape
            .operand(&Tensor::<2>::from_data(view, &device))
            .unwrap();
        let w = tape.operand(&weight).unwrap();
        (tape.pointwise(x, w, None, shape), SIDE)
    });
    let output = tape.concat(outputs.to_vec(), columns, false);
    let trained = [Trained {
        node: node_of(&weight).unwrap(),
        len: SIDE * SIDE,
    }];
    let members = Membership {
        of_record: OF_RECORD.to_vec(),
        units: 3,
    };
    let books = Books::keep(tape, output, dy.concat(), members, &trained).unwrap();
    let by_products = matches!(books.entries[0], Entry::Products { .. });
    assert_eq!(
        by_products,
        pixels == 1,
        "the route follows from the shapes"
    );
    (books.squares(0), books.weighted_sum(|_| &[1.0; 3]))
}

/// The same by the definition, in double precision.
fn expected(pixels: usize, views: [&[f32]; 2], dy: [&[f32]; 2]) -> Vec<f64> {
    let columns = pixels * RECORDS;
    let gradient = |unit: usize, o: usize, i: usize| -> f64 {
        let mine = (0..columns).filter(|column| OF_RECORD[column % RECORDS] == unit);
        let product = |column: usize, view: usize| {
            f64::from(dy[view][o * columns + column]) * f64::from(views[view][i * columns + column])
        };
        mine.map(|column| product(column, 0) + product(column, 1))
            .sum()
    };
    let all = |unit| (0..SIDE * SIDE).map(move |at| gradient(unit, at / SIDE, at % SIDE));
    (0..3).map(|unit| all(unit).map(|g| g * g).sum()).collect()
}

fn agrees(pixels: usize) -> bool {
    let len = SIDE * pixels * RECORDS;
    let [a, b, da, db] = [0.1, 1.3, 2.2, 0.7].map(|phase| wave(len, phase));
    let found = two_views(pixels, [&a, &b], [&da, &db]).0;
    let exact = expected(pixels, [&a, &b], [&da, &db]);
    found
        .iter()
        .zip(&exact)
        .all(|(f, e)| (f - e).abs() < 1e-5 * e)
}

/// Equal views with opposite gradients.
fn cancels(pixels: usize) -> bool {
    let len = SIDE * pixels * RECORDS;
    let (x, dy) = (wave(len, 0.4), wave(len, 1.9));
    let against: Vec<f32> = dy.iter().map(|d| -d).collect();
    let (squares, sum) = two_views(pixels, [&x, &x], [&dy, &against]);
    squares.iter().all(|square| *square < 1e-10) && sum.iter().all(|value| value.abs() < 1e-5)
}

#[test]
fn norms_of_a_tied_weight_have_the_cross_terms_of_views_and_records() {
    for pixels in [1, 9] {
        assert!(agrees(pixels), "{pixels} pixels");
        assert!(cancels(pixels), "{pixels} pixels");
    }
}

#[test]
fn a_dropped_cross_term_is_noticed() {
    let noticed = with(Fault::CrossTermsDropped, || {
        [1, 9].map(|pixels| !agrees(pixels) && !cancels(pixels))
    });
    assert_eq!(noticed, [true; 2]);
}
