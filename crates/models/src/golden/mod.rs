//! Tests against recorded outputs and gradients of the authors' reference implementation.
//!
//! The folder `CONSILIUM_GOLDEN/ehpal` is read whole; what a file tests is decided by what it holds, and
//! sizes are read from its arrays.

mod agreement;
mod blocks;
mod full;
mod npz;

use std::io::Write as _;
use std::path::PathBuf;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, Device, Gradients, Tensor, TensorData};
use consilium_core::{Seed, TensorSpec};

use crate::net::init::Init;
use npz::{Npy, Npz};

/// The case files, or nothing where the folder is absent.
fn files() -> Option<Vec<PathBuf>> {
    // A relative folder starts at the workspace, where `cargo test` is typed, not at this crate.
    let workspace = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let asked = std::env::var_os("CONSILIUM_GOLDEN");
    let root = asked.clone().unwrap_or("../shared/data/golden".into());
    let folder = workspace.join(root).join("ehpal");
    let Ok(entries) = std::fs::read_dir(&folder) else {
        assert!(asked.is_none(), "{} is not there", folder.display());
        say(&format!("skipped: {} is not there", folder.display()));
        return None;
    };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} has no case", folder.display());
    Some(files)
}

/// Straight to the descriptor: the test harness keeps what passing tests print to itself.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Precision a case is run in, with the tolerances of `ehpal-net.md` section 12 (maximum error over rms).
#[derive(Clone, Copy, Debug, PartialEq)]
enum Precision {
    /// The kernels.
    Single,
    /// Burn's own operations.
    Double,
}

impl Precision {
    const ALL: [Self; 2] = [Self::Single, Self::Double];

    fn dtype(self) -> DType {
        match self {
            Self::Single => DType::F32,
            Self::Double => DType::F64,
        }
    }

    fn block(self) -> f64 {
        match self {
            Self::Single => 1e-5,
            Self::Double => 1e-6,
        }
    }

    fn gradient(self) -> f64 {
        match self {
            Self::Single => 1e-4,
            Self::Double => 1e-6,
        }
    }

    fn tensor<const D: usize>(
        self,
        values: &[f32],
        shape: [usize; D],
        device: &Device,
    ) -> Tensor<D> {
        Tensor::from_data(
            TensorData::new(values.to_vec(), shape),
            (device, self.dtype()),
        )
    }

    /// A map `[batch, height, width, channels]` as `[channels, height, width, batch]`.
    fn map(self, array: &Npy, device: &Device) -> Tensor<4> {
        let [batch, height, width, channels] = array.dims();
        let values = array.permuted(&[3, 1, 2, 0]);
        self.tensor(&values, [channels, height, width, batch], device)
    }
}

/// A tensor's values on the host in double precision.
fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().convert::<f64>().try_into_vec().unwrap()
}

/// A map's values in NHWC order.
fn nhwc(tensor: Tensor<4>) -> Vec<f64> {
    host(tensor.permute([3, 1, 2, 0]))
}

#[track_caller]
fn close(what: &str, got: &[f64], expected: &[f32], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{what}: number of values");
    let rms = (expected.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / expected.len() as f64)
        .sqrt();
    let worst = got
        .iter()
        .zip(expected)
        .map(|(got, &expected)| (got - f64::from(expected)).abs())
        .fold(0.0, |worst: f64, error| {
            if error.is_nan() {
                f64::NAN
            } else {
                worst.max(error)
            }
        });
    assert!(
        worst <= tolerance * rms.max(1e-12),
        "{what}: error {worst:.3e}, rms {rms:.3e}"
    );
}

/// Values of a reference tensor in the order of ours, by our shape.
fn converted(array: &Npy, ours: &[usize]) -> Vec<f32> {
    match (array.shape.len(), ours.len()) {
        // Grouped or full 1x1 kernel [1, 1, in, out] to [out, in].
        (4, 2) => array.permuted(&[3, 2, 0, 1]),
        // Depthwise [k, k, channels, 1] to [channels, k, k].
        (4, 3) => array.permuted(&[2, 0, 1, 3]),
        // [kh, kw, in, out] to [out, in, kh, kw].
        (4, 4) => array.permuted(&[3, 2, 0, 1]),
        _ => array.values.clone(),
    }
}

/// A module with the weights of a case, in a precision, with gradients.
struct Loaded<M> {
    module: M,
    specs: Vec<TensorSpec>,
}

impl<M: Module> Loaded<M> {
    fn new(
        precision: Precision,
        device: &Device,
        create: impl FnOnce(&mut Init<'_>) -> M,
        weight: impl Fn(&TensorSpec) -> Vec<f32>,
    ) -> Self {
        let mut init = Init::new(device, Seed(0), "golden");
        let module = create(&mut init);
        let specs = init.into_specs();
        let module = fill(module, &specs, precision, device, weight);
        Self { module, specs }
    }

    /// Gradients in the order of the specs; zeros where none arrived.
    fn gradients(&self, gradients: &mut Gradients) -> Vec<Vec<f64>> {
        collect(&self.module, gradients)
    }
}

fn fill<M: Module>(
    module: M,
    specs: &[TensorSpec],
    precision: Precision,
    device: &Device,
    weight: impl Fn(&TensorSpec) -> Vec<f32>,
) -> M {
    let mut filler = Filler {
        values: specs.iter().map(weight).collect::<Vec<_>>().into_iter(),
        precision,
        device,
    };
    let module = module.map(&mut filler);
    assert!(
        filler.values.next().is_none(),
        "a parameter was not visited"
    );
    module
}

struct Filler<'a> {
    values: std::vec::IntoIter<Vec<f32>>,
    precision: Precision,
    device: &'a Device,
}

impl ModuleMapper for Filler<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, old, mapper) = param.consume();
        let values = self.values.next().unwrap();
        let new = self.precision.tensor(&values, old.dims(), self.device);
        let new = if old.is_require_grad() {
            new.require_grad()
        } else {
            new
        };
        Param::from_mapped_value(id, new, mapper)
    }
}

fn collect<M: Module>(module: &M, gradients: &mut Gradients) -> Vec<Vec<f64>> {
    struct Collector<'a>(&'a mut Gradients, Vec<Vec<f64>>);
    impl ModuleVisitor for Collector<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let tensor = param.val();
            let values = match tensor.grad_remove(self.0) {
                Some(gradient) => host(gradient),
                None => vec![0.0; tensor.shape().num_elements()],
            };
            self.1.push(values);
        }
    }
    let mut collector = Collector(gradients, Vec::new());
    module.visit(&mut collector);
    collector.1
}
