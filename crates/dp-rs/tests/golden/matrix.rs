//! The lists of `matrix_mechanism.json`.

use dp_rs::accounting::rdp::RenyiCurve;
use dp_rs::adjacency::Adjacency;
use dp_rs::correlated::{Blt, Participation, SquaredError, Toeplitz};
use dp_rs::event::{Event, Mechanism};

use super::case::Case;

const TOLERANCE: f64 = 1e-9;

fn participation(case: &Case) -> Participation {
    Participation {
        steps: case.whole("n") as usize,
        min_separation: case.whole("min_separation") as usize,
        max_participations: case.whole("max_participations") as usize,
    }
}

fn head(case: &Case, key: &str, got: &[f64]) {
    if !case.has(key) {
        return;
    }
    for (index, expected) in case.numbers(key).into_iter().enumerate() {
        // Beyond the last band the coefficient is zero.
        let got = got.get(index).copied().unwrap_or(0.0);
        case.near(&format!("{key}[{index}]"), got, expected, TOLERANCE);
    }
}

fn columns(case: &Case, sensitivity: f64, error: SquaredError) {
    case.expect("sensitivity", sensitivity, TOLERANCE);
    case.expect("max_squared_error_unit_noise", error.max, TOLERANCE);
    case.expect("mean_squared_error_unit_noise", error.mean, TOLERANCE);
    let product = sensitivity * error.max.sqrt();
    case.expect("rmse_max_times_sensitivity", product, TOLERANCE);
}

pub fn toeplitz(case: &Case) {
    let strategy = Toeplitz::square_root(case.whole("bands") as usize);
    let run = participation(case);
    head(case, "coef_head", strategy.coefficients());
    columns(
        case,
        strategy.sensitivity(run),
        strategy.squared_error(run.steps),
    );
    let event = Event::new(Mechanism::BandedToeplitz {
        noise_multiplier: 10.0,
        coefficients: strategy.coefficients().to_vec(),
        steps: run.steps as u64,
        min_separation: run.min_separation as u64,
        max_participations: run.max_participations as u64,
    });
    let ledger = [event.unwrap().repeated(1, Adjacency::ZeroOut)];
    let curve = RenyiCurve::of(&ledger, &[2.0]).unwrap();
    case.expect(
        "rho_zcdp_at_noise_sigma_10",
        curve.divergences()[0] / 2.0,
        TOLERANCE,
    );
}

pub fn blt(case: &Case) {
    let strategy = Blt::new(case.numbers("buf_decay"), case.numbers("output_scale")).unwrap();
    let run = participation(case);
    head(case, "toeplitz_head", &strategy.coefficients(run.steps));
    head(case, "noising_coef_head", &strategy.inverse(run.steps));
    columns(
        case,
        strategy.sensitivity(run),
        strategy.squared_error(run.steps),
    );
}

pub fn streaming(case: &Case) {
    let mut stream = Toeplitz::new(case.numbers("coef")).unwrap().stream(1);
    let expected = case.numbers("correlated_noise");
    for (step, (noise, expected)) in case
        .numbers("iid_noise")
        .into_iter()
        .zip(expected)
        .enumerate()
    {
        let mut value = [noise];
        stream.correlate(&mut value);
        case.near(&format!("step {step}"), value[0], expected, TOLERANCE);
    }
}
