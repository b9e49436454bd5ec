//! The privacy statement of an update: a private study takes no update without the agreed one.

use consilium_core::Study;
use consilium_core::study::PrivacyMode;
use serde_json::{Value, json};

use crate::consortium::{Consortium, code, header, study};

fn private_study() -> Study {
    let mut study = study();
    study.privacy = PrivacyMode::PrivateSteps;
    for participant in &mut study.sites {
        participant.privacy = Some(json!({
            "plan": {
                "unit": "patient",
                "adjacency": "add-remove",
                "clip": {"rule": "flat", "clip_norm": 1.0},
                "noise_multiplier": 1.0,
                "noise_level": "hardened",
                "sampling_rate": 0.02,
                "expected_units": 20.0,
                "max_records": 4
            },
            "steps": 500,
            "delta": 1e-5,
            "epsilon": 2.8
        }));
    }
    study
}

fn agreed() -> Value {
    json!({
        "unit": "patient",
        "events": {
            "event": {"mechanism": "poisson-gaussian", "noise_multiplier": 1.0, "sampling_rate": 0.02},
            "count": 10,
            "adjacency": "add-remove"
        },
        "noise_level": "hardened",
        "randomness": "simulation-seeded"
    })
}

/// The agreed statement with one value replaced.
fn with(place: &str, value: Value) -> Vec<u8> {
    let mut statement = agreed();
    *statement.pointer_mut(place).unwrap() = value;
    statement.to_string().into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_study_takes_an_update_with_the_agreed_statement_only() {
    let consortium = Consortium::with(private_study(), |blobs| blobs).await;
    let before = consortium.blobs();
    let other = "privacy_statement_mismatch";
    for (expected, statement) in [
        ("privacy_statement_missing", Vec::new()),
        ("privacy_statement_unreadable", b"clipped, really".to_vec()),
        (
            "privacy_statement_unreadable",
            with("/unit", json!("nobody")),
        ),
        (other, with("/unit", json!("record"))),
        (other, with("/noise_level", json!("fast"))),
        (other, with("/randomness", json!("operating-system"))),
        (other, with("/events/adjacency", json!("zero-out"))),
        (other, with("/events/event/noise_multiplier", json!(0.5))),
        (other, with("/events/event/sampling_rate", json!(0.01))),
        (other, with("/events/count", json!(0))),
        (other, with("/events/count", json!(501))),
    ] {
        let mut messages = consortium.upload("a", 0.5);
        let text = String::from_utf8_lossy(&statement).into_owned();
        header(&mut messages).privacy = statement;
        let refused = consortium.send("a", messages).await.unwrap_err();
        assert_eq!(code(&refused), expected, "{text}");
        assert_eq!(consortium.blobs(), before, "{text}");
    }
    let mut messages = consortium.upload("a", 0.5);
    header(&mut messages).privacy = agreed().to_string().into_bytes();
    assert!(!consortium.send("a", messages).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_study_that_protects_nobody_takes_no_statement() {
    let consortium = Consortium::new().await;
    let mut messages = consortium.upload("a", 0.5);
    header(&mut messages).privacy = agreed().to_string().into_bytes();
    let refused = consortium.send("a", messages).await.unwrap_err();
    assert_eq!(code(&refused), "privacy_statement_unasked");
}
