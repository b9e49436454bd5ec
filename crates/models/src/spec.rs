//! The specification of an EHPAL-Net: what a study writes down and every site agrees to.

use std::collections::BTreeMap;

use consilium_core::{ModalityKey, TaskKey};
use serde::{Deserialize, Serialize};

use crate::{Activation, ModelError};

/// EHPAL-Net (`ehpal-net.md`). Defaults are the recommended settings; the reference setting is
/// `width = 64`, `side = 128`, `norm = "batch"`, `score_scale = "1"`, `guard_eps2 = 0`, `s_param = "raw"`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EhpalNet {
    /// Channels of the stem output, `b`; the trunk has b, 2b, 4b and 8b. A multiple of 8, 8 to 64.
    #[serde(default = "default_width")]
    pub width: usize,
    /// Side of the input images in pixels; the stem output has a quarter of it. A multiple of 32.
    #[serde(default = "default_side")]
    pub side: usize,
    /// Normalisation layers.
    #[serde(default)]
    pub norm: NormKind,
    /// Last activation of every MHCF block.
    #[serde(default = "default_activation")]
    pub mhcf_act: Activation,
    /// Factor on the hyperbolic scores of PCMFA (section 6.3).
    #[serde(default)]
    pub score_scale: ScoreScale,
    /// Guard under the square roots of PCMFA (section 6.2): 1e-6, or 0 for none.
    #[serde(default = "default_guard")]
    pub guard_eps2: f32,
    /// How PCMFA's fractal scaling S is parametrised (section 6.4).
    #[serde(default)]
    pub s_param: SParam,
    /// Rate of the dropout before the heads, in [0, 1).
    #[serde(default = "default_dropout")]
    pub dropout: f32,
    /// The modalities of the study.
    pub modalities: BTreeMap<ModalityKey, Modality>,
    /// The tasks of the study.
    pub tasks: BTreeMap<TaskKey, Task>,
}

/// Normalisation layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NormKind {
    /// GroupNorm: 8 groups from 32 channels on, else one per 4 channels (section 7.2).
    #[default]
    Group,
    /// BatchNorm with given moving statistics, which training does not change.
    Batch,
}

/// Factor on the hyperbolic scores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ScoreScale {
    /// 1 over the unit's channels, with the Lorentz scale started at +-0.1 (recommended).
    #[default]
    #[serde(rename = "1/F")]
    InverseUnits,
    /// 1, the reference.
    #[serde(rename = "1")]
    One,
}

impl ScoreScale {
    /// The factor for a unit of `units` channels.
    #[must_use]
    pub fn factor(self, units: usize) -> f32 {
        match self {
            Self::InverseUnits => 1.0 / units as f32,
            Self::One => 1.0,
        }
    }
}

/// Parametrisation of S.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SParam {
    /// `S = 1 + sigma(s)`: always in (1, 2) (recommended).
    #[default]
    Sigmoid,
    /// S itself, projected after every step (the reference).
    Raw,
}

/// One modality: what a record is, and the slot of the network (1 to 4) it enters. Several modalities may
/// share a slot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Modality {
    /// An image `[channels, side, side]`.
    Image {
        /// Slot 1 to 4.
        slot: usize,
        /// 1 or 3.
        channels: usize,
    },
    /// A signal `[channels, length]`.
    Signal {
        /// Slot 1 to 4.
        slot: usize,
        /// Leads or axes.
        channels: usize,
        /// Samples.
        length: usize,
        /// Encoder, or published image conversion.
        #[serde(default)]
        conversion: Conversion,
    },
    /// A row of a table, or of an omics matrix, `[features]`; missing values are 0 after scaling and have
    /// their own indicator columns.
    Table {
        /// Slot 1 to 4.
        slot: usize,
        /// Columns.
        features: usize,
        /// Hidden units of the encoder.
        #[serde(default = "default_hidden")]
        hidden: usize,
        /// Dropout rate on the input columns while training.
        #[serde(default)]
        input_dropout: f32,
        /// Encoder, or published image conversion.
        #[serde(default)]
        conversion: Conversion,
    },
}

impl Modality {
    /// The slot, 1 to 4.
    #[must_use]
    pub fn slot(&self) -> usize {
        match *self {
            Self::Image { slot, .. } | Self::Signal { slot, .. } | Self::Table { slot, .. } => slot,
        }
    }
}

/// How signals and tables reach the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Conversion {
    /// An encoder of their own, reshaped to the stem output.
    #[default]
    Encoder,
    /// An image of three channels for the 2-D stem (section 9): Gramian angular fields, or a fixed grid of
    /// value, missing mask and squared value.
    Image,
}

/// One task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Task {
    /// One of `n` classes; softmax and cross-entropy.
    Classes {
        /// Number of classes.
        n: usize,
    },
    /// `n` independent yes/no labels; sigmoid and binary cross-entropy. `n = 1` is a binary task.
    Labels {
        /// Number of labels.
        n: usize,
    },
    /// Survival by a proportional hazard: one log-risk, Breslow partial likelihood. Not separable over
    /// patients.
    Cox,
    /// Survival in discrete time: the hazard of each interval; separable over patients (section 7.3).
    Hazards {
        /// Where the intervals end, in the unit of the cohorts' times: above 0 and ascending, one for each
        /// interval. The first begins at 0; nothing is said about the time after the last.
        cut_points: Vec<f32>,
    },
}

impl Task {
    /// Length of the output vector.
    #[must_use]
    pub fn outputs(&self) -> usize {
        match self {
            Self::Classes { n } | Self::Labels { n } => *n,
            Self::Cox => 1,
            Self::Hazards { cut_points } => cut_points.len(),
        }
    }

    /// Whether the loss is a sum over patients, which patient-level privacy needs.
    #[must_use]
    pub fn is_separable(&self) -> bool {
        !matches!(self, Self::Cox)
    }
}

impl EhpalNet {
    /// Reads and checks a specification.
    ///
    /// # Errors
    /// [`ModelError::Specification`] or [`ModelError::Setting`].
    pub fn from_json(value: &serde_json::Value) -> Result<Self, ModelError> {
        let spec: Self = serde_json::from_value(value.clone())
            .map_err(|error| ModelError::Specification(error.to_string()))?;
        spec.check()?;
        Ok(spec)
    }

    /// The specification as the study stores it.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        // Cannot fail: string keys, no custom serialisers. Non-finite floats become null and are refused
        // when read.
        serde_json::to_value(self).unwrap_or_default()
    }

    /// Side of the stem output.
    #[must_use]
    pub fn stem_side(&self) -> usize {
        self.side / 4
    }

    /// Checks every value.
    ///
    /// # Errors
    /// [`ModelError::Setting`] for the first value outside its range.
    pub fn check(&self) -> Result<(), ModelError> {
        let refuse = |key: String, value: String, remedy: &str| {
            Err(ModelError::Setting {
                key,
                value,
                remedy: remedy.to_owned(),
            })
        };
        if !(8..=64).contains(&self.width) || !self.width.is_multiple_of(8) {
            return refuse(
                "width".into(),
                self.width.to_string(),
                "use a multiple of 8 from 8 to 64",
            );
        }
        if !(32..=1024).contains(&self.side) || !self.side.is_multiple_of(32) {
            return refuse(
                "side".into(),
                self.side.to_string(),
                "use a multiple of 32 from 32 to 1024",
            );
        }
        if !(0.0..=1e-3).contains(&self.guard_eps2) {
            let value = self.guard_eps2.to_string();
            return refuse(
                "guard_eps2".into(),
                value,
                "use 1e-6, or 0 to turn the guard off",
            );
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return refuse(
                "dropout".into(),
                self.dropout.to_string(),
                "use a rate from 0 to below 1",
            );
        }
        if self.modalities.is_empty() {
            return refuse(
                "modalities".into(),
                "{}".into(),
                "name at least one modality",
            );
        }
        if self.tasks.is_empty() {
            return refuse("tasks".into(), "{}".into(), "name at least one task");
        }
        for (key, modality) in &self.modalities {
            let at = |field: &str| format!("modalities.{key}.{field}");
            if !(1..=4).contains(&modality.slot()) {
                return refuse(
                    at("slot"),
                    modality.slot().to_string(),
                    "use a slot from 1 to 4",
                );
            }
            match *modality {
                Modality::Image { channels, .. } if channels != 1 && channels != 3 => {
                    return refuse(
                        at("channels"),
                        channels.to_string(),
                        "images have 1 or 3 channels",
                    );
                }
                Modality::Image { .. } => {}
                Modality::Signal {
                    channels, length, ..
                } => {
                    if !(1..=4096).contains(&channels) {
                        return refuse(
                            at("channels"),
                            channels.to_string(),
                            "use 1 to 4096 channels",
                        );
                    }
                    if !(2..=1 << 20).contains(&length) {
                        return refuse(
                            at("length"),
                            length.to_string(),
                            "use 2 to 1048576 samples",
                        );
                    }
                }
                Modality::Table {
                    features,
                    hidden,
                    input_dropout,
                    ..
                } => {
                    if !(1..=1 << 20).contains(&features) {
                        return refuse(
                            at("features"),
                            features.to_string(),
                            "use 1 to 1048576 columns",
                        );
                    }
                    if !(1..=4096).contains(&hidden) {
                        return refuse(
                            at("hidden"),
                            hidden.to_string(),
                            "use 1 to 4096 hidden units",
                        );
                    }
                    if !(0.0..1.0).contains(&input_dropout) {
                        let value = input_dropout.to_string();
                        return refuse(at("input_dropout"), value, "use a rate from 0 to below 1");
                    }
                }
            }
        }
        for (key, task) in &self.tasks {
            let (field, least) = match task {
                Task::Classes { .. } => ("n", 2),
                Task::Labels { .. } => ("n", 1),
                Task::Cox => continue,
                Task::Hazards { cut_points } => {
                    let from_zero = std::iter::once(&0.0).chain(cut_points);
                    let ascending = from_zero.zip(cut_points).all(|(before, cut)| before < cut);
                    if !ascending || !cut_points.iter().all(|cut| cut.is_finite()) {
                        return refuse(
                            format!("tasks.{key}.cut_points"),
                            format!("{cut_points:?}"),
                            "give finite times above 0, each larger than the one before",
                        );
                    }
                    ("cut_points", 1)
                }
            };
            if !(least..=65536).contains(&task.outputs()) {
                let remedy = format!("use {least} to 65536 outputs");
                return refuse(
                    format!("tasks.{key}.{field}"),
                    task.outputs().to_string(),
                    &remedy,
                );
            }
        }
        Ok(())
    }
}

fn default_width() -> usize {
    8
}

fn default_side() -> usize {
    32
}

fn default_activation() -> Activation {
    Activation::Relu
}

fn default_guard() -> f32 {
    1e-6
}

fn default_dropout() -> f32 {
    0.25
}

fn default_hidden() -> usize {
    32
}
