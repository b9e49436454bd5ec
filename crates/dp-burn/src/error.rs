//! Why a model, a batch or a loss was not accepted.

/// A refusal: nothing was computed, and nothing may be released.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// A layer that mixes the records of a batch: no per-unit gradient exists.
    #[error("{path} is a {layer}, which mixes the records of a batch; {remedy}")]
    BatchCoupling {
        /// Dotted path in the module.
        path: String,
        /// Type of the layer.
        layer: String,
        /// What to do instead.
        remedy: &'static str,
    },
    /// A trainable parameter that no tapped call used: it would be updated without having been clipped.
    #[error("{path} is trainable, but no tapped call covers it ({container}); {remedy}")]
    NotCovered {
        /// Dotted path in the module.
        path: String,
        /// Type that holds the parameter.
        container: String,
        /// What to do instead.
        remedy: &'static str,
    },
    /// A trainable parameter under a reparameterization (LoRA, weight norm), for which there is no rule.
    #[error(
        "{path} is reparameterized; apply a low-rank update as two `linear` calls, or freeze the parameter"
    )]
    Reparameterized {
        /// Dotted path in the module.
        path: String,
    },
    /// No parameter requires a gradient.
    #[error(
        "no parameter requires a gradient; move the model to an autodiff device with `train()`, or unfreeze a part"
    )]
    NothingTrainable,
    /// The first axis of a tapped tensor is not the rows of the batch.
    #[error(
        "{layer}: the first axis has length {got}, the batch has {rows} rows; keep one entry per row in front and put positions behind it"
    )]
    Rows {
        /// The tapped call.
        layer: &'static str,
        /// Length of the first axis.
        got: usize,
        /// Rows of the batch.
        rows: usize,
    },
    /// The losses are not one number per row.
    #[error(
        "{got} losses for {rows} rows; return one loss per row, neither summed nor averaged over the batch"
    )]
    Losses {
        /// Losses returned.
        got: usize,
        /// Rows of the batch.
        rows: usize,
    },
    /// The losses do not depend on any tapped call.
    #[error("the losses do not depend on a trainable parameter")]
    Constant,
    /// A parameter's shape does not fit the call.
    #[error("{layer}: a parameter of shape {parameter:?} does not broadcast to {shape:?}")]
    Broadcast {
        /// The tapped call.
        layer: &'static str,
        /// Shape of the parameter.
        parameter: Vec<usize>,
        /// Shape it should broadcast to; the first axis is the batch.
        shape: Vec<usize>,
    },
    /// A batch without rows; release noise alone for an empty draw.
    #[error(
        "the batch has no rows; an empty draw is a step of noise alone, without a forward pass"
    )]
    EmptyBatch,
    /// A unit that owns no row.
    #[error("unit {unit} of {units} owns no row of the batch")]
    EmptyUnit {
        /// The unit.
        unit: usize,
        /// Units in the batch.
        units: usize,
    },
    /// A group or gradient vector of the wrong length.
    #[error("{what}: {got} values, expected {expected}")]
    Length {
        /// What was given.
        what: &'static str,
        /// Values given.
        got: usize,
        /// Values expected.
        expected: usize,
    },
    /// The loss of one row reaches the activations of another unit's row.
    #[error(
        "the loss of unit {unit} depends on row {row} of unit {other}: a layer or the loss mixes records"
    )]
    MixesUnits {
        /// Unit whose loss was differentiated.
        unit: usize,
        /// A row with a gradient.
        row: usize,
        /// The unit of that row.
        other: usize,
    },
    /// The recorded gradient of a parameter differs from automatic differentiation.
    #[error(
        "{path}: the recorded gradient differs from automatic differentiation by {difference:e} of its norm; the parameter is also used outside tapped calls"
    )]
    Differs {
        /// Dotted path in the module.
        path: String,
        /// Relative L2 difference.
        difference: f64,
    },
    /// A precision the recorder cannot work in.
    #[error("{layer}: {dtype} is not supported; use f32 or f64")]
    Precision {
        /// The tapped call.
        layer: &'static str,
        /// Element type.
        dtype: String,
    },
}

impl Refusal {
    /// A stable name of the kind, for logs and documents; never reworded.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::BatchCoupling { .. } => "batch_coupling",
            Self::NotCovered { .. } => "not_covered",
            Self::Reparameterized { .. } => "reparameterized",
            Self::NothingTrainable => "nothing_trainable",
            Self::Rows { .. } => "rows",
            Self::Losses { .. } => "losses",
            Self::Constant => "constant_loss",
            Self::Broadcast { .. } => "broadcast",
            Self::EmptyBatch => "empty_batch",
            Self::EmptyUnit { .. } => "empty_unit",
            Self::Length { .. } => "length",
            Self::MixesUnits { .. } => "mixes_units",
            Self::Differs { .. } => "differs",
            Self::Precision { .. } => "precision",
        }
    }
}
