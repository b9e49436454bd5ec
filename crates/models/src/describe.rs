//! Sizes and arithmetic of the network, counted from the real module.

use std::fmt::Write as _;

use burn::tensor::Device;
use consilium_core::{ModalityKey, Seed, TensorSpec};
use serde::Serialize;

use crate::{Conversion, EhpalNet, Modality, ModelError, NormKind, SiteNetwork, Task};

/// One line of the table of `ehpal-net.md` section 5.1.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModuleSize {
    /// What is counted.
    pub module: String,
    /// Trainable values, without the reference's dead scalars.
    pub trainable: usize,
    /// Moving statistics that a BatchNorm build adds.
    pub bn_moving: usize,
    /// Sum of both.
    pub total: usize,
    /// Normalisation layers.
    pub norms: usize,
    /// Million multiply-accumulates for one record with four different inputs.
    pub mmac: f64,
}

/// The table, with separate lines for what single-modality training adds to the published network.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Description {
    /// Channels of the stem output.
    pub width: usize,
    /// Side of the input.
    pub side: usize,
    /// The published network, module by module.
    pub modules: Vec<ModuleSize>,
    /// Sum of `modules`.
    pub published: ModuleSize,
    /// Absent embeddings and modality vectors.
    pub single_modality: Vec<ModuleSize>,
}

/// Which version of the published network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Heads 5, 7, 2, 2.
    V1,
    /// Heads 5, 7, 1 (survival), 2.
    V2,
}

/// Describes the published network of four image inputs of three channels at a width and side.
///
/// # Errors
/// [`ModelError::Setting`] for an impossible width or side.
pub fn describe(width: usize, side: usize, version: Version) -> Result<Description, ModelError> {
    let third = match version {
        Version::V1 => Task::Labels { n: 2 },
        Version::V2 => Task::Cox,
    };
    let tasks = [
        Task::Classes { n: 5 },
        Task::Classes { n: 7 },
        third,
        Task::Labels { n: 2 },
    ];
    let modalities: Vec<(String, Modality)> = (1..=4)
        .map(|slot| (slot.to_string(), Modality::Image { slot, channels: 3 }))
        .collect();
    let tasks: Vec<(String, Task)> = tasks
        .into_iter()
        .enumerate()
        .map(|(i, task)| ((i + 1).to_string(), task))
        .collect();
    let json = serde_json::json!({
        "width": width,
        "side": side,
        "norm": NormKind::Batch,
        "modalities": modalities.into_iter().collect::<std::collections::BTreeMap<_, _>>(),
        "tasks": tasks.into_iter().collect::<std::collections::BTreeMap<_, _>>(),
    });
    let spec = EhpalNet::from_json(&json)?;
    let network = SiteNetwork::whole(&spec, Seed(0), "describe", &Device::flex())?;
    let tensors = &network.manifest().tensors;
    let mut modules: Vec<ModuleSize> = Vec::new();
    let mut single: Vec<ModuleSize> = Vec::new();
    for tensor in tensors {
        let (module, published) = module_of(&tensor.name);
        let list = if published { &mut modules } else { &mut single };
        let at = list
            .iter()
            .position(|line| line.module == module)
            .unwrap_or_else(|| {
                list.push(ModuleSize {
                    module,
                    trainable: 0,
                    bn_moving: 0,
                    total: 0,
                    norms: 0,
                    mmac: 0.0,
                });
                list.len() - 1
            });
        let line = &mut list[at];
        if tensor.name.contains(".moving_") {
            line.bn_moving += tensor.len();
        } else {
            line.trainable += tensor.len();
        }
        line.total += tensor.len();
        line.norms += usize::from(tensor.name.ends_with(".gamma"));
        line.mmac += macs(tensor, &spec) / 1e6;
    }
    let mut published = ModuleSize {
        module: "total".into(),
        trainable: 0,
        bn_moving: 0,
        total: 0,
        norms: 0,
        mmac: 0.0,
    };
    for line in &modules {
        published.trainable += line.trainable;
        published.bn_moving += line.bn_moving;
        published.total += line.total;
        published.norms += line.norms;
        published.mmac += line.mmac;
    }
    Ok(Description {
        width,
        side,
        modules,
        published,
        single_modality: single,
    })
}

/// The line a tensor belongs to, and whether the published network has it.
fn module_of(name: &str) -> (String, bool) {
    let parts: Vec<&str> = name.split('.').collect();
    match parts[..] {
        ["stem", _, "modality"] => ("modality vectors".into(), false),
        ["absent", ..] => ("absent embeddings".into(), false),
        ["stem", slot, ..] => (format!("stem {slot}"), true),
        ["head", task, ..] => (format!("head {task}"), true),
        ["adapter3", ..] => ("adapter3".into(), true),
        ["adapter4", mhcf, ..] => (format!("adapter4: {}", mhcf.replace("mhcf", "MHCF ")), true),
        [stage, half, part, ..] => {
            let number = if half == "ehf1_1" { 1 } else { 2 };
            let stage = stage.to_uppercase();
            let line = match part {
                "emrc" => format!("{stage}: EMRC {number}"),
                "pcmfa" => format!("{stage}: PCMFA {number}"),
                "sir" => format!("{stage}: SIR"),
                _ => format!("{stage}: norms + LF + conv"),
            };
            (line, true)
        }
        _ => (name.to_owned(), true),
    }
}

/// Multiply-accumulates of the layer that a kernel belongs to, for one record through its own stream.
fn macs(tensor: &TensorSpec, spec: &EhpalNet) -> f64 {
    let name = tensor.name.as_str();
    let size = tensor.len() as f64;
    let parts: Vec<&str> = name.split('.').collect();
    let stem = spec.stem_side();
    let pixels = |side: usize| (side * side) as f64;
    match parts.as_slice() {
        // Products with Wr and Wi, the DCT and the guidance: four F x F products per stream and unit, half
        // of them counted with each of the two matrices.
        [.., "pcmfa", _, "psi_real" | "psi_imag"] => 4.0 * size,
        ["head", _, "kernel"] => size,
        ["stem", _, "conv", "kernel"] => size * pixels(spec.side / 2),
        ["stem", ..] | ["absent", ..] => 0.0,
        [.., layer, "kernel"] => {
            let out = match parts[0] {
                "adapter3" => stem / 2,
                "adapter4" if parts[1] == "mhcf1" => stem / 2,
                "adapter4" => stem / 4,
                "ehf64" => stem,
                stage => {
                    let inside = match stage {
                        "ehf128" => stem,
                        "ehf256" => stem / 2,
                        _ => stem / 4,
                    };
                    match (parts[1], parts[2]) {
                        ("ehf1_1", _) => inside,
                        (_, "sir") => sir_side(inside / 2, spec.stem_side() / 8, parts[4], layer),
                        _ => inside / 2,
                    }
                }
            };
            size * pixels(out)
        }
        _ => 0.0,
    }
}

/// Side at which a layer of a SIR unit computes; every unit halves the side until it is `last`.
fn sir_side(input: usize, last: usize, unit: &str, layer: &str) -> usize {
    let halvings = if unit == "unit2" { 1 } else { 0 };
    let inside = (input >> halvings).max(last);
    if matches!(layer, "down" | "skipdw") {
        (inside / 2).max(last)
    } else {
        inside
    }
}

/// Multiply-accumulates of a forward pass for one record of one modality with two views (section 10.3).
///
/// # Errors
/// [`ModelError::UnknownModality`].
pub fn macs_per_record(spec: &EhpalNet, key: &ModalityKey) -> Result<f64, ModelError> {
    let modality = spec
        .modalities
        .get(key)
        .ok_or_else(|| ModelError::UnknownModality(key.clone()))?;
    let network = SiteNetwork::new(spec, [key], [], Seed(0), "describe", &Device::flex())?;
    let trunk = network
        .manifest()
        .tensors
        .iter()
        .filter(|tensor| !tensor.name.starts_with("stem."));
    let stem = match *modality {
        Modality::Image { channels, .. } => {
            (49 * channels * spec.width * (spec.side / 2).pow(2)) as f64
        }
        Modality::Signal {
            conversion: Conversion::Image,
            ..
        }
        | Modality::Table {
            conversion: Conversion::Image,
            ..
        } => (49 * 3 * spec.width * (spec.side / 2).pow(2)) as f64,
        Modality::Signal {
            channels, length, ..
        } => (7 * spec.width * (channels + spec.width) * length) as f64,
        Modality::Table {
            features, hidden, ..
        } => (hidden * (features + spec.width * spec.stem_side().min(8).pow(2))) as f64,
    };
    Ok(2.0 * stem + trunk.map(|tensor| macs(tensor, spec)).sum::<f64>())
}

impl Description {
    /// The table as text.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let heads = ["module", "trainable", "BN moving", "total", "norms", "MMAC"];
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:<26} {:>12} {:>10} {:>12} {:>6} {:>9}",
            heads[0], heads[1], heads[2], heads[3], heads[4], heads[5]
        );
        let single = self.single_modality.iter();
        for line in self.modules.iter().chain([&self.published]).chain(single) {
            let _ = writeln!(
                text,
                "{:<26} {:>12} {:>10} {:>12} {:>6} {:>9.2}",
                line.module,
                grouped(line.trainable),
                grouped(line.bn_moving),
                grouped(line.total),
                line.norms,
                line.mmac
            );
        }
        text
    }
}

/// A number with commas between thousands.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_that_of_the_reference_less_the_dead_scalars() {
        let v1 = describe(64, 128, Version::V1).unwrap();
        assert_eq!(v1.published.trainable, 7_701_334);
        assert_eq!(v1.published.bn_moving, 112_128);
        assert_eq!(v1.published.norms, 233);
        assert_eq!((v1.published.mmac * 10.0).round() / 10.0, 613.4);
        let v2 = describe(64, 128, Version::V2).unwrap();
        assert_eq!(v2.published.trainable, 7_697_749);
        let line = |name: &str| v1.modules.iter().find(|line| line.module == name).unwrap();
        for (name, trainable, moving, norms, mmac) in [
            ("stem 1", 9_600, 128, 1, 38.5),
            ("EHF64: EMRC 1", 31_744, 3_328, 26, 28.84),
            ("EHF64: PCMFA 2", 16_908 - 4, 0, 0, 0.07),
            ("EHF128: EMRC 1", 87_296, 6_144, 26, 82.58),
            ("EHF128: EMRC 2", 102_400, 6_656, 26, 24.38),
            ("EHF128: norms + LF + conv", 4_738, 512, 2, 1.05),
            ("EHF128: SIR", 290_944, 0, 0, 28.13),
            ("adapter3", 20_352, 1_792, 5, 4.75),
            ("EHF256: EMRC 1", 335_104, 12_800, 26, 82.25),
            ("EHF256: SIR", 219_904, 0, 0, 12.70),
            ("adapter4: MHCF 1", 54_656, 3_328, 5, 13.14),
            ("adapter4: MHCF 2", 186_368, 5_120, 5, 11.60),
            ("EHF512: EMRC 1", 1_251_840, 25_600, 26, 78.35),
            ("EHF512: EMRC 2", 1_343_488, 26_624, 26, 21.04),
            ("EHF512: PCMFA 1", 1_052_684 - 4, 0, 0, 4.19),
            ("EHF512: SIR", 398_080, 0, 0, 6.20),
        ] {
            let found = line(name);
            assert_eq!(
                (found.trainable, found.bn_moving, found.norms),
                (trainable, moving, norms),
                "{name}"
            );
            assert!(
                (found.mmac - mmac).abs() < 0.06,
                "{name}: {} MMAC",
                found.mmac
            );
        }
    }

    #[test]
    fn scaled_versions_have_the_published_sizes() {
        // Section 5.3, less the 32 dead scalars.
        for (width, trainable) in [(32, 2_115_574), (16, 624_054), (8, 203_638)] {
            let found = describe(width, 64, Version::V1).unwrap();
            assert_eq!(found.published.trainable, trainable - 32, "width {width}");
        }
    }
}
