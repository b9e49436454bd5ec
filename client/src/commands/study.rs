//! `consilium-site study`: what a study would do, and this site's answer to it.

use std::path::Path;
use std::time::Duration;

use consilium_certs::{Identity, Role, Signer};
use consilium_core::clock::{Clock as _, SystemClock};
use consilium_core::{Digest, Participant, Study};
use consilium_ops::{Format, OperatorError, output};
use consilium_rounds::Withdrawal;
use consilium_store::site::SiteStore;
use serde::Serialize;

use super::{identity, no_runtime, refused_certificate, server_address};
use crate::acceptance;
use crate::agent::{AgentError, read_study};
use crate::config::SiteConfig;
use crate::peer::Peer as _;
use crate::policy::Violation;
use crate::transport::GrpcServer;

/// How long the server is awaited.
const PATIENCE: Duration = Duration::from_secs(30);

/// A study as this site sees it.
#[derive(Serialize)]
struct Shown {
    study: String,
    study_sha256: Digest,
    /// What taking part means, a sentence a line.
    meaning: Vec<String>,
    /// What the policy does not permit.
    violations: Vec<String>,
    /// `accepted`, `withdrawn` or `not accepted`.
    answer: &'static str,
}

/// Shows the study of the configuration, as the server has it or as it stands in `document`.
///
/// # Errors
/// [`OperatorError`].
pub fn show(path: &Path, document: Option<&Path>, format: Format) -> Result<(), OperatorError> {
    let config = SiteConfig::read(path)?;
    let (study, participant) = fetched(&config, document)?;
    let violations = match config.read_policy()?.judge(&study, &participant) {
        Ok(()) => Vec::new(),
        Err(forbidden) => (forbidden.violations().iter())
            .map(Violation::to_string)
            .collect(),
    };
    let answer = runtime()?.block_on(async {
        if !config.database().exists() {
            return Ok::<_, AgentError>("not accepted");
        }
        let store = SiteStore::open_existing(&config.database()).await?;
        let stored = store.acceptance(&study.name).await?;
        store.close().await;
        Ok(match stored {
            Some(stored) if stored.withdrawn.is_some() => "withdrawn",
            Some(stored) if stored.digest == study.digest() => "accepted",
            _ => "not accepted",
        })
    })?;
    let shown = Shown {
        study: study.name.to_string(),
        study_sha256: study.digest(),
        meaning: acceptance::in_plain_words(&study, &participant),
        violations,
        answer,
    };
    output::print(format, &shown, |shown| {
        let mut text = format!("study {} ({})\n\n", shown.study, shown.study_sha256);
        for line in &shown.meaning {
            text.push_str(&format!("- {line}\n"));
        }
        text.push('\n');
        for violation in &shown.violations {
            text.push_str(&format!("policy: {violation}\n"));
        }
        if shown.violations.is_empty() {
            text.push_str("policy: permits it\n");
        }
        text.push_str(&format!("answer of this site: {}", shown.answer));
        text
    });
    Ok(())
}

/// Accepts the study in writing: signs its digest with the site's key. The agent shows that to the server.
///
/// # Errors
/// [`OperatorError`], with exit code 5 for a study that the policy does not permit.
pub fn accept(path: &Path, document: Option<&Path>, format: Format) -> Result<(), OperatorError> {
    let config = SiteConfig::read(path)?;
    let (study, participant) = fetched(&config, document)?;
    let policy = config.read_policy()?;
    policy
        .judge(&study, &participant)
        .map_err(|forbidden| OperatorError::from(forbidden).at(config.policy.display()))?;
    let bytes = std::fs::read(&config.policy)
        .map_err(|error| OperatorError::file(&config.policy, &error))?;
    let files = &config.identity;
    let signed = Identity::load(&files.certificate, &files.key, Role::Site)
        .and_then(|identity| Signer::of(&identity))
        .and_then(|signer| {
            let now = SystemClock.now();
            acceptance::sign(&signer, &config.site, &study, Digest::of(&bytes), now)
        })
        .map_err(|error| refused_certificate(&error).at(files.certificate.display()))?;
    std::fs::create_dir_all(&config.state)
        .map_err(|error| OperatorError::file(&config.state, &error))?;
    runtime()?.block_on(async {
        let store = SiteStore::open(&config.database()).await?;
        let kept = store.accept_in_writing(&study.name, study.digest(), &signed);
        kept.await?;
        store.close().await;
        Ok::<_, AgentError>(())
    })?;
    let data = serde_json::json!({
        "study": study.name, "study_sha256": study.digest(), "policy_sha256": Digest::of(&bytes),
    });
    output::print(format, &data, |_| {
        format!(
            "accepted: study {} ({}); `consilium-site run` takes part in it",
            study.name,
            study.digest()
        )
    });
    Ok(())
}

/// Takes the acceptance back. A running agent stops before it trains or sends again; the server is told at once if it can
/// be reached, and by the agent otherwise.
///
/// # Errors
/// [`OperatorError`], with exit code 3 where nothing was accepted.
pub fn withdraw(path: &Path, reason: &str, format: Format) -> Result<(), OperatorError> {
    let config = SiteConfig::read(path)?;
    let name = &config.study;
    let accepted = runtime()?.block_on(async {
        let store = SiteStore::open_existing(&config.database()).await?;
        let stored = store.acceptance(name).await?;
        if stored.is_some() {
            store.take_back(name, reason).await?;
        }
        store.close().await;
        Ok::<_, AgentError>(stored)
    })?;
    let Some(accepted) = accepted else {
        return Err(OperatorError::configuration(
            "study_not_accepted",
            format!("this site has not accepted study {name}"),
            "there is nothing to take back",
        ));
    };
    let withdrawal = Withdrawal {
        round: 0,
        attempt: 0,
        code: "study_withdrawn".into(),
        reason: "this site has withdrawn its acceptance".into(),
        may_return: false,
    };
    let mut server = server(&config)?;
    let told = runtime()?.block_on(server.withdraw(accepted.digest, &withdrawal));
    let data = serde_json::json!({"study": name, "server_told": told.is_ok()});
    output::print(format, &data, |_| match &told {
        Ok(()) => format!("withdrawn from study {name}; the server knows"),
        Err(error) => format!(
            "withdrawn from study {name}; the server does not know yet ({error}): the agent tells it when it is started"
        ),
    });
    Ok(())
}

/// The study of the configuration, and this site's part.
fn fetched(
    config: &SiteConfig,
    document: Option<&Path>,
) -> Result<(Study, Participant), OperatorError> {
    let bytes = match document {
        Some(file) => std::fs::read(file).map_err(|error| OperatorError::file(file, &error))?,
        None => {
            let mut server = server(config)?;
            let fetched = runtime()?.block_on(server.study(&config.study));
            fetched.map_err(AgentError::from)?
        }
    };
    let study = read_study(&config.study, &bytes)?;
    let participant = study.participant(&config.site).cloned();
    let participant = participant.ok_or_else(|| AgentError::NotAParticipant {
        study: study.name.clone(),
        site: config.site.clone(),
    })?;
    Ok((study, participant))
}

fn server(config: &SiteConfig) -> Result<GrpcServer, OperatorError> {
    let (tls, witness) = identity(config)?;
    let credentials = crate::transport::Credentials::new(tls, &witness);
    let address = server_address(config)?;
    let site = config.site.clone();
    Ok(GrpcServer::new(
        address,
        credentials,
        witness,
        site,
        PATIENCE,
    ))
}

fn runtime() -> Result<tokio::runtime::Runtime, OperatorError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| no_runtime(&error))
}
