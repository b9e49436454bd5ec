//! Where a network computes.

use std::fmt;
use std::str::FromStr;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use crate::ModelError;

/// A kind of device, chosen by the user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceChoice {
    /// This machine's processor.
    #[default]
    Cpu,
    /// The first NVIDIA GPU; needs a build with feature `cuda`.
    Cuda,
    /// The default GPU through WebGPU; needs a build with feature `wgpu`.
    Wgpu,
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Wgpu => "wgpu",
        })
    }
}

impl FromStr for DeviceChoice {
    type Err = ModelError;

    fn from_str(text: &str) -> Result<Self, ModelError> {
        match text {
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda),
            "wgpu" => Ok(Self::Wgpu),
            _ => Err(ModelError::Device {
                device: text.to_owned(),
                remedy: "use cpu, cuda or wgpu".to_owned(),
            }),
        }
    }
}

impl DeviceChoice {
    /// The Burn device, without gradients.
    ///
    /// # Errors
    /// [`ModelError::Device`] when the device was not compiled in or cannot be opened.
    pub fn open(self) -> Result<Device, ModelError> {
        match self {
            Self::Cpu => Ok(Device::flex()),
            Self::Cuda => open_cuda(),
            Self::Wgpu => open_wgpu(),
        }
    }
}

#[cfg(feature = "cuda")]
fn open_cuda() -> Result<Device, ModelError> {
    probe(
        "cuda",
        "check that nvidia-smi lists a GPU and that libcuda and libnvrtc can be loaded",
        || Device::cuda(0),
    )
}

#[cfg(not(feature = "cuda"))]
fn open_cuda() -> Result<Device, ModelError> {
    Err(not_compiled("cuda"))
}

#[cfg(feature = "wgpu")]
fn open_wgpu() -> Result<Device, ModelError> {
    probe(
        "wgpu",
        "install a Vulkan driver (Debian: mesa-vulkan-drivers libvulkan1)",
        || Device::wgpu(burn::tensor::DeviceKind::DefaultDevice),
    )
}

#[cfg(not(feature = "wgpu"))]
fn open_wgpu() -> Result<Device, ModelError> {
    Err(not_compiled("wgpu"))
}

#[cfg(not(all(feature = "cuda", feature = "wgpu")))]
fn not_compiled(feature: &str) -> ModelError {
    ModelError::Device {
        device: feature.to_owned(),
        remedy: format!(
            "this program was built without it: build with `--features {feature}`, or use --device cpu"
        ),
    }
}

/// Opens a GPU and runs one product on it. Burn reports a missing driver by a panic, which is caught here.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
fn probe(
    name: &str,
    remedy: &str,
    open: impl Fn() -> Device + std::panic::UnwindSafe,
) -> Result<Device, ModelError> {
    let tried = std::panic::catch_unwind(move || {
        let device = open();
        let one = burn::tensor::Tensor::<2>::ones([2, 2], &device);
        let sum: f32 = one.clone().matmul(one).sum().into_scalar();
        (device, sum)
    });
    match tried {
        Ok((device, sum)) if (sum - 8.0).abs() < 1e-3 => Ok(device),
        _ => Err(ModelError::Device {
            device: name.to_owned(),
            remedy: format!("{remedy}, or use --device cpu"),
        }),
    }
}
