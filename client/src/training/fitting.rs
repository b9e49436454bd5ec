//! Whether a cohort is what a study declares for its site.

use consilium_core::Participant;
use consilium_data::manifest::ModalityKind as DataKind;
use consilium_data::{Cohort, Examples};
use consilium_models::{EhpalNet, record_shape};

use super::study_error;
use crate::work::WorkError;

/// Refuses records that are not what the study declares for this site.
pub(super) fn fits(
    spec: &EhpalNet,
    participant: &Participant,
    cohort: &Cohort,
    examples: &Examples,
) -> Result<(), WorkError> {
    let refuse = |code, message: String, hint: &str| {
        Err(WorkError {
            code,
            message,
            hint: hint.into(),
        })
    };
    let manifest = cohort.manifest();
    if manifest.modality.key != participant.modality {
        return refuse(
            "cohort_other_modality",
            format!(
                "the cohort holds modality {}, the study expects {} here",
                manifest.modality.key, participant.modality
            ),
            "correct the key in cohort.toml or in the study; equal key means equal meaning of every column",
        );
    }
    if manifest.task.key != participant.task {
        return refuse(
            "cohort_other_task",
            format!(
                "the cohort has task {}, the study expects {} here",
                manifest.task.key, participant.task
            ),
            "correct the key in cohort.toml or in the study; equal key means equal label definition",
        );
    }
    let (Some(modality), Some(_)) = (
        spec.modalities.get(&participant.modality),
        spec.tasks.get(&participant.task),
    ) else {
        return Err(study_error(
            "the network lacks this site's modality or task".into(),
        ));
    };
    let expected = record_shape(spec, modality);
    if examples.shape != expected {
        let images = manifest.modality.kind == DataKind::Image;
        return refuse(
            "cohort_other_shape",
            format!(
                "records have shape {:?}, the study expects {expected:?}",
                examples.shape
            ),
            if images {
                "set preprocessing.side in cohort.toml to the side of the study"
            } else {
                "compare `consilium data describe` with the modality in the study"
            },
        );
    }
    Ok(())
}
