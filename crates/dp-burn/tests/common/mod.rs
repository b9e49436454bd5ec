//! The micro-batch loop that everything is compared with, and data without randomness.

#![allow(dead_code, missing_docs)] // Shared by several test programs.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{DType, Device, FloatDType, Gradients, Tensor, TensorData};
use dp_burn::{BookKeeping, Layers, Plain, Recorder, Units};
use dp_rs::gradients::UnitGradients;

/// A network and a loss per row.
pub trait Case {
    type Net: Module;
    fn net(&self, device: &Device) -> Self::Net;
    /// The losses of these rows of the batch.
    fn losses(&self, net: &Self::Net, layers: &mut impl Layers, rows: &[usize]) -> Tensor<1>;
}

pub fn device() -> Device {
    Device::flex().autodiff()
}

/// Values in (-1, 1) that depend on `seed` and their place only.
pub fn values(seed: u64, len: usize) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
        })
        .collect()
}

/// One tensor per row, stacked; a row's values depend on `seed` and the row only.
pub fn rows<const D: usize>(
    seed: u64,
    rows: &[usize],
    shape: [usize; D],
    dtype: DType,
) -> Tensor<D> {
    let len: usize = shape[1..].iter().product();
    let all: Vec<f64> = rows
        .iter()
        .flat_map(|&row| values(seed + 1000 * (row as u64 + 1), len))
        .collect();
    let mut shape = shape;
    shape[0] = rows.len();
    tensor(all, shape, dtype)
}

pub fn tensor<const D: usize>(values: Vec<f64>, shape: [usize; D], dtype: DType) -> Tensor<D> {
    let data = TensorData::new(values, shape);
    Tensor::from_data(data.convert_dtype(dtype), (&Device::flex(), dtype))
}

/// A loss per row with curvature, from any output.
pub fn losses<const D: usize>(output: Tensor<D>, seed: u64, of: &[usize]) -> Tensor<1> {
    let dims = output.dims();
    let weights = rows(seed, of, dims, output.dtype());
    let losses = output.clone() * weights + output.powf_scalar(2.0).mul_scalar(0.1);
    let len: usize = dims[1..].iter().product();
    losses.reshape([dims[0], len]).sum_dim(1).reshape([dims[0]])
}

pub fn dtype_of<M: Module>(net: &M) -> DType {
    struct First(Option<DType>);
    impl ModuleVisitor for First {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.get_or_insert(param.val().dtype());
        }
    }
    let mut first = First(None);
    net.visit(&mut first);
    first.0.unwrap()
}

/// Deterministic weights of a precision; gradients as before.
pub fn set<M: Module>(net: M, dtype: FloatDType) -> M {
    struct Set(FloatDType, u64);
    impl ModuleMapper for Set {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            // The same field in two places keeps one value: seeded by its identity's first appearance only.
            self.1 += 1;
            let (seed, dtype) = (self.1, self.0);
            param.map(|old| {
                let dims = old.dims();
                let wants = old.is_require_grad();
                let scale = 1.0 / (dims[1..].iter().product::<usize>() as f64).sqrt();
                let new = values(seed, dims.iter().product());
                let new = new.into_iter().map(|v| v * scale + 0.1).collect();
                let new = tensor(new, dims, dtype.into()).autodiff();
                if wants { new.require_grad() } else { new }
            })
        }
    }
    net.map(&mut Set(dtype, 0))
}

/// Gradients in the order of the parameters, each parameter once.
pub fn flat<M: Module>(net: &M, gradients: &Gradients) -> Vec<f64> {
    struct Flat<'a>(&'a Gradients, Vec<ParamId>, Vec<f64>);
    impl ModuleVisitor for Flat<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if !param.val().is_require_grad() || self.1.contains(&param.id) {
                return;
            }
            self.1.push(param.id);
            match param.val().grad(self.0) {
                Some(grad) => self.2.extend(grad.into_data().iter::<f64>()),
                None => self.2.extend(vec![0.0; param.val().shape().num_elements()]),
            }
        }
    }
    let mut flat = Flat(gradients, Vec::new(), Vec::new());
    net.visit(&mut flat);
    flat.2
}

/// One gradient per unit, by running every unit alone.
pub fn micro_batches<C: Case>(case: &C, net: &C::Net, units: &Units) -> Vec<Vec<f64>> {
    (0..units.len())
        .map(|unit| {
            let losses = case.losses(net, &mut Plain, units.rows_of(unit));
            flat(net, &losses.sum().backward())
        })
        .collect()
}

pub fn recorded<C: Case>(case: &C, net: &C::Net, units: &Units, recorder: Recorder) -> BookKeeping {
    let all: Vec<usize> = (0..units.rows()).collect();
    let result = recorder.gradients(net, units, |net, taps| case.losses(net, taps, &all));
    result.unwrap()
}

pub fn norm(values: &[f64]) -> f64 {
    values.iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// Norms and a weighted sum against the loop, per parameter.
pub fn compare<C: Case>(case: &C, net: &C::Net, units: &Units, recorder: Recorder, name: &str) {
    let double = dtype_of(net) == DType::F64;
    let (norm_tolerance, sum_tolerance) = if double { (1e-10, 1e-10) } else { (1e-5, 1e-4) };
    let expected = micro_batches(case, net, units);
    let book = recorded(case, net, units, recorder);
    let parameters = book.parameters().as_slice().to_vec();
    for (index, parameter) in parameters.iter().enumerate() {
        let range = parameter.offset..parameter.offset + parameter.len;
        for (unit, square) in book.squared_norms_of(index).into_iter().enumerate() {
            // A gradient that is 0 but for rounding (a key's bias) is compared with the whole.
            let floor = norm(&expected[unit]) * if double { 1e-14 } else { 1e-7 };
            let expected = norm(&expected[unit][range.clone()]);
            let difference = (square.sqrt() - expected).abs();
            assert!(
                difference <= norm_tolerance * expected + floor + 1e-12,
                "{name}: norm of {} in unit {unit}: {} instead of {expected}",
                parameter.path,
                square.sqrt()
            );
        }
    }
    let factors: Vec<f64> = (0..units.len())
        .map(|unit| 0.3 + 0.2 * unit as f64)
        .collect();
    let mut wanted = vec![0.0; expected[0].len()];
    for (gradient, factor) in expected.iter().zip(&factors) {
        for (to, from) in wanted.iter_mut().zip(gradient) {
            *to += factor * from;
        }
    }
    let got: Vec<f64> = if double {
        book.weighted_sum_f64(&factors)
    } else {
        book.weighted_sum(&factors)
            .into_iter()
            .map(f64::from)
            .collect()
    };
    assert_eq!(got.len(), wanted.len(), "{name}");
    let rms = norm(&wanted) / (wanted.len() as f64).sqrt();
    for (index, (got, wanted)) in got.iter().zip(&wanted).enumerate() {
        assert!(
            (got - wanted).abs() <= sum_tolerance * rms + 1e-12,
            "{name}: sum at {index}: {got} instead of {wanted} (rms {rms})"
        );
    }
}

/// In both precisions, with the host's path and with generic operations, with one and with several rows per
/// unit.
pub fn agrees<C: Case>(case: &C) {
    for dtype in [FloatDType::F64, FloatDType::F32] {
        let net = set(case.net(&device()), dtype);
        for units in [
            Units::per_row(4).unwrap(),
            Units::from_rows(vec![1, 0, 1, 2, 0, 1]).unwrap(),
            Units::from_rows(vec![0, 0, 0]).unwrap(),
        ] {
            for (recorder, path) in [
                (Recorder::new(), "host"),
                (Recorder::new().with_generic_operations(), "generic"),
            ] {
                let name = format!("{dtype:?}, {path}, {} rows", units.rows());
                compare(case, &net, &units, recorder, &name);
            }
        }
    }
}
