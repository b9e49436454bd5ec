//! What can be wrong with a model's specification, values or input.

use consilium_core::{GroupName, ModalityKey, TaskKey};

/// Why the models crate refused something. Codes are stable.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A value of the specification is outside its range.
    #[error("model setting {key} = {value} is not possible: {remedy}")]
    Setting {
        /// Key in the specification.
        key: String,
        /// The refused value.
        value: String,
        /// What to write instead.
        remedy: String,
    },
    /// The specification text does not describe this model.
    #[error("the model specification cannot be read: {0}; compare it with the annotated sample")]
    Specification(String),
    /// A modality that the model does not have, or this site does not hold.
    #[error("modality {0} is not part of this network: add it to the model's modalities")]
    UnknownModality(ModalityKey),
    /// A task that the model does not have, or this site does not hold.
    #[error("task {0} is not part of this network: add it to the model's tasks")]
    UnknownTask(TaskKey),
    /// A group that this network does not hold.
    #[error("group {0} is not part of this network: load only the groups of its manifest")]
    UnknownGroup(GroupName),
    /// A group's vector has the wrong length.
    #[error(
        "group {group} has {got} values, the manifest says {expected}: the model specification differs"
    )]
    WrongLength {
        /// The group.
        group: GroupName,
        /// Values given.
        got: usize,
        /// Values needed.
        expected: usize,
    },
    /// An input array does not have the shape the modality's stem takes.
    #[error(
        "input of modality {modality} has shape {got:?}, expected [records, {expected}]: check the cohort's modality settings"
    )]
    InputShape {
        /// The modality.
        modality: ModalityKey,
        /// Shape given.
        got: Vec<usize>,
        /// Shape of one record.
        expected: String,
    },
    /// An array's length does not match its shape.
    #[error("array of shape {shape:?} has {got} values: give one value per element")]
    ArrayLength {
        /// Shape given.
        shape: Vec<usize>,
        /// Values given.
        got: usize,
    },
    /// Targets do not fit the task or the batch.
    #[error("targets of task {task} do not fit: {problem}")]
    Target {
        /// The task.
        task: TaskKey,
        /// What does not fit, and what would.
        problem: String,
    },
    /// Private training is not possible with this part of the network.
    #[error("{what} cannot be trained privately: {remedy}")]
    NotPrivate {
        /// Dotted name of the tensor, or the task.
        what: String,
        /// Why, and what to use instead.
        remedy: String,
    },
    /// Training or prediction produced a value that is not a finite number.
    #[error(
        "{what} is not a finite number: lower the learning rate, or check the input for extreme values"
    )]
    NotFinite {
        /// Which value.
        what: String,
    },
    /// The device was not compiled in or is not there.
    #[error("device {device} is not available: {remedy}")]
    Device {
        /// Device asked for.
        device: String,
        /// What to do.
        remedy: String,
    },
}

impl ModelError {
    /// Stable code for logs, replies and documents.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Setting { .. } => "model_setting_invalid",
            Self::Specification(_) => "model_specification_invalid",
            Self::UnknownModality(_) => "model_unknown_modality",
            Self::UnknownTask(_) => "model_unknown_task",
            Self::UnknownGroup(_) => "model_unknown_group",
            Self::WrongLength { .. } => "model_wrong_length",
            Self::InputShape { .. } => "model_input_shape",
            Self::ArrayLength { .. } => "model_array_length",
            Self::Target { .. } => "model_target_invalid",
            Self::NotPrivate { .. } => "model_not_private",
            Self::NotFinite { .. } => "model_not_finite",
            Self::Device { .. } => "model_device_unavailable",
        }
    }
}
