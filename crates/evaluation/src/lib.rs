//! Metrics and intervals.
//!
//! * [`Predictions`] hold outcomes and predictions of one [`TaskKind`], checked once, and answer for every
//!   [`Metric`]. Undefined is `None`, never 0 or one half.
//! * [`intervals`]: how far a figure can be trusted, over runs and over patients.
//!
//! Everything is computed in f64. It does not know about networks, files or cohorts; every random draw
//! comes from a generator or a seed that the caller hands in.
//!
//! ```
//! use consilium_evaluation::{BinaryPredictions, Metric, Predictions};
//!
//! let predictions = BinaryPredictions::new(vec![false, false, true], vec![0.1, 0.4, 0.35])?;
//! let predictions = Predictions::Binary(predictions);
//! assert_eq!(predictions.metric(Metric::Auroc), Some(0.5));
//! assert_eq!(predictions.rows(&[0, 1]).metric(Metric::Auroc), None);
//! # Ok::<(), consilium_evaluation::InvalidPredictions>(())
//! ```

mod binary;
pub mod calibration;
pub mod confusion;
pub mod cox;
pub mod delong;
pub mod intervals;
mod multiclass;
mod multilabel;
mod problem;
pub mod ranking;
mod survival;
mod task;

pub use binary::{BinaryPredictions, LOG_LOSS_CLIP};
pub use intervals::{Bootstrap, CorrectedT, Interval};
pub use multiclass::MultiClassPredictions;
pub use multilabel::MultiLabelPredictions;
pub use problem::InvalidPredictions;
pub use survival::{Concordance, SurvivalPredictions};
pub use task::{Metric, Predictions, TaskKind, UnknownMetric};
