//! What an agent refuses, and what it says when it is refused.

mod consortium;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use consilium_certs::Authority;
use consilium_core::{ModelVector, RoundPlan};
use consilium_ops::{ExitCode, OperatorError};
use consilium_rounds::Phase;
use consilium_site::agent::{AgentError, MakeWork};
use consilium_site::peer::{Peer as _, Wanted};
use consilium_site::work::{LocalWork, MetricValue, Progress, Trained, WorkError};
use consortium::{
    Consortium, ServerState, Toy, careless_peer, peer, silent_address, site, study, wanted,
};

/// What the agent of site `a` ends with.
async fn ends_with(consortium: &Consortium, address: &str, work: MakeWork) -> AgentError {
    let peer = consortium.peer("a", address);
    consortium.run("a", peer, work).await.unwrap_err()
}

fn exit_of(error: AgentError) -> ExitCode {
    OperatorError::from(error).exit
}

#[tokio::test(flavor = "multi_thread")]
async fn a_study_that_changed_under_its_name_is_refused() {
    let (consortium, state) = (Consortium::new(), ServerState::new());
    let server = consortium.serve(Arc::clone(&state)).await;
    let accepted = async {
        tokio::select! {
            _ = consortium.run("a", consortium.peer("a", &server.address), Toy::make()) => {}
            () = state.wait_until(|inner| !inner.updates.is_empty()) => {}
        }
    };
    accepted.await;
    state.inner().study.schedule.rounds += 1;
    let error = ends_with(&consortium, &server.address, Toy::make()).await;
    assert_eq!(error.code(), "study_changed");
    assert_eq!(exit_of(error), ExitCode::Refused);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_study_that_contradicts_itself_or_lacks_this_site_is_refused() {
    let (consortium, state) = (Consortium::new(), ServerState::new());
    let server = consortium.serve(Arc::clone(&state)).await;
    state.inner().study.aggregation.minimum_holders = 1;
    let error = ends_with(&consortium, &server.address, Toy::make()).await;
    assert_eq!(error.code(), "study_minimum_holders");
    let mut other = study();
    other.aggregation.minimum_holders = 2;
    other.sites.remove(0);
    state.inner().study = other;
    let error = ends_with(&consortium, &server.address, Toy::make()).await;
    assert_eq!(error.code(), "study_without_this_site");
    assert_eq!(exit_of(error), ExitCode::Refused);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_refusal_is_shown_with_its_code_and_hint() {
    let (consortium, state) = (Consortium::new(), ServerState::new());
    let server = consortium.serve(state).await;
    let mut peer = consortium.peer("a", &server.address);
    let error = peer.study(&"other".parse().unwrap()).await.unwrap_err();
    let shown = OperatorError::from(error);
    assert_eq!(
        (shown.code.as_str(), shown.hint.as_str(), shown.exit),
        ("study_unknown", "ask the coordinator", ExitCode::Failed)
    );
}

/// Work that puts a group into its update that must stay.
struct Leaking(Toy);

impl LocalWork for Leaking {
    fn train(
        &mut self,
        plan: &RoundPlan,
        global: &ModelVector,
        local: &ModelVector,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Trained, WorkError> {
        let mut trained = self.0.train(plan, global, local, progress)?;
        trained.update.extend(local);
        Ok(trained)
    }

    fn evaluate(
        &mut self,
        global: &ModelVector,
        local: &ModelVector,
    ) -> Result<Vec<MetricValue>, WorkError> {
        self.0.evaluate(global, local)
    }

    fn initial_local(&self) -> ModelVector {
        self.0.initial_local()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_must_stay_does_not_leave_even_if_training_hands_it_out() {
    let (consortium, state) = (Consortium::new(), ServerState::new());
    let server = consortium.serve(Arc::clone(&state)).await;
    let leaking: MakeWork = Box::new(|study, participant| {
        Ok(Box::new(Leaking(Toy::new(study, participant))) as Box<dyn LocalWork>)
    });
    let error = ends_with(&consortium, &server.address, leaking).await;
    assert_eq!(error.code(), "group_must_stay");
    assert_eq!(exit_of(error), ExitCode::Refused);
    assert_eq!(state.inner().arrived_groups, []);
}

/// Work that diverges.
struct Diverging(Toy);

impl LocalWork for Diverging {
    fn train(
        &mut self,
        plan: &RoundPlan,
        global: &ModelVector,
        local: &ModelVector,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Trained, WorkError> {
        let mut trained = self.0.train(plan, global, local, progress)?;
        if let Some(values) = trained.update.0.values_mut().next() {
            values[1] = f32::NAN;
        }
        Ok(trained)
    }

    fn evaluate(
        &mut self,
        global: &ModelVector,
        local: &ModelVector,
    ) -> Result<Vec<MetricValue>, WorkError> {
        self.0.evaluate(global, local)
    }

    fn initial_local(&self) -> ModelVector {
        self.0.initial_local()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_is_not_a_number_is_neither_sealed_nor_sent() {
    let (consortium, state) = (Consortium::new(), ServerState::new());
    let server = consortium.serve(Arc::clone(&state)).await;
    let diverging: MakeWork = Box::new(|study, participant| {
        Ok(Box::new(Diverging(Toy::new(study, participant))) as Box<dyn LocalWork>)
    });
    let error = ends_with(&consortium, &server.address, diverging).await;
    assert!(error.to_string().contains("head/t"), "{error}");
    assert_eq!(exit_of(error), ExitCode::Failed);
    assert_eq!(state.inner().arrived_groups, []);
    let store = consortium.store("a").await;
    let accepted = store.accepted(&"toy".parse().unwrap()).await.unwrap();
    assert_eq!(accepted.unwrap().participation.sealed, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn training_that_panics_ends_the_agent_as_our_bug() {
    let (consortium, state) = (Consortium::new(), ServerState::new());
    let server = consortium.serve(state).await;
    let panicking: MakeWork = Box::new(|_, _| panic!("on purpose"));
    let error = ends_with(&consortium, &server.address, panicking).await;
    assert_eq!(error.code(), "work_panicked");
    assert_eq!(exit_of(error), ExitCode::Internal);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_download_is_fetched_again_and_twice_damaged_refused() {
    let (consortium, state) = (Consortium::new(), ServerState::new());
    let server = consortium.serve(Arc::clone(&state)).await;
    let mut peer = consortium.peer("a", &server.address);
    let wanted = wanted(0);
    state.inner().faults.damaged_downloads = 1;
    let got = peer.group(&wanted).await.unwrap();
    assert_eq!(&got, &consortium::initial().0[&wanted.group]);
    state.inner().faults.damaged_downloads = 2;
    let error = peer.group(&wanted).await.unwrap_err();
    assert_eq!(error.code(), "group_digest_mismatch");
    // More values than the study says.
    let fewer = Wanted {
        length: wanted.length - 1,
        ..wanted
    };
    let error = peer.group(&fewer).await.unwrap_err();
    assert_eq!(error.code(), "server_protocol");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_without_digests_is_not_downloaded() {
    let (consortium, state) = (Consortium::new(), ServerState::new());
    let server = consortium.serve(Arc::clone(&state)).await;
    state.inner().faults.answers_without_digests = 1;
    let error = ends_with(&consortium, &server.address, Toy::make()).await;
    assert!(error.to_string().contains("without its digest"), "{error}");
    assert_eq!(state.inner().downloads, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_final_model_with_a_flipped_bit_in_every_value_is_refused_by_every_site() {
    let (consortium, state) = (Consortium::new(), ServerState::new());
    let server = consortium.serve(Arc::clone(&state)).await;
    // The server announces digests of what it sends: only the model's hash tells.
    let last = consortium::expected().sha256();
    state.inner().faults.wrong_models.insert(last);
    let runs = consortium::SITES.map(|name| {
        let peer = consortium.peer(name, &server.address);
        consortium.run(name, peer, Toy::make())
    });
    for ended in consortium::join_all(runs).await {
        let error = ended.unwrap_err();
        assert_eq!(error.code(), "model_hash_mismatch");
        assert_eq!(exit_of(error), ExitCode::Failed);
    }
    assert!(!consortium.metrics_file("a").exists());
    let store = consortium.store("a").await;
    let accepted = store.accepted(&"toy".parse().unwrap()).await.unwrap();
    assert_eq!(accepted.unwrap().final_model, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_round_from_another_model_than_the_documents_is_refused() {
    let (consortium, state) = (Consortium::new(), ServerState::new());
    {
        let mut inner = state.inner();
        let other = consortium::expected();
        if let Phase::Training { plan, .. } = &mut inner.coordination.phase {
            plan.model = other.sha256();
        }
        inner.models.insert(other.sha256(), other);
    }
    let server = consortium.serve(Arc::clone(&state)).await;
    let error = ends_with(&consortium, &server.address, Toy::make()).await;
    assert_eq!(error.code(), "plan_other_model");
    assert_eq!(exit_of(error), ExitCode::Refused);
    assert_eq!(state.inner().downloads, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_study_document_beyond_the_limit_of_a_message_is_named_as_such() {
    let (consortium, state) = (Consortium::new(), ServerState::new());
    let server = consortium.serve(Arc::clone(&state)).await;
    state.inner().study.training = serde_json::Value::String("x".repeat(3 << 20));
    let error = ends_with(&consortium, &server.address, Toy::make()).await;
    assert_eq!(error.code(), "message_too_large");
    assert!(OperatorError::from(error).hint.contains("smaller study"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_never_answers_is_given_up_with_exit_code_4() {
    let consortium = Consortium::new();
    let authority = consortium.authority.certificate();
    let (_socket, silent) = silent_address();
    let patience = Duration::from_millis(600);
    let mut peer = peer("a", &silent, &consortium.certs(), &authority, patience);
    let error = peer.study(&"toy".parse().unwrap()).await.unwrap_err();
    assert_eq!(error.code(), "server_unreachable");
    assert_eq!(OperatorError::from(error).exit, ExitCode::Peer);
}

/// Code and message of the refusal, which comes at once and ends with exit code 4.
async fn refused(mut peer: consilium_site::transport::GrpcServer) -> (String, String) {
    let asked = tokio::time::timeout(Duration::from_secs(10), async {
        peer.study(&"toy".parse().unwrap()).await.unwrap_err()
    });
    let shown = OperatorError::from(asked.await.expect("a refusal comes at once"));
    assert_eq!(shown.exit, ExitCode::Peer, "{shown}");
    assert!(!shown.hint.is_empty());
    (shown.code, shown.message)
}

fn other_authority(folder: &Path) -> Authority {
    Authority::create_with_unencrypted_key(&folder.join("other"), "other").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_authority_is_refused_by_the_server() {
    let consortium = Consortium::new();
    let server = consortium.serve(ServerState::new()).await;
    let certs = consortium.folder.path().join("other-certs");
    other_authority(consortium.folder.path())
        .issue_site(&site("a"), &certs)
        .unwrap();
    let authority = consortium.authority.certificate();
    let (code, message) = refused(careless_peer("a", &server.address, &certs, &authority)).await;
    assert_eq!(code, "certificate_refused", "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_another_authority_is_refused_by_the_site() {
    let consortium = Consortium::new();
    let server = consortium.serve(ServerState::new()).await;
    let other = other_authority(consortium.folder.path()).certificate();
    let (code, message) = refused(careless_peer(
        "a",
        &server.address,
        &consortium.certs(),
        &other,
    ))
    .await;
    assert_eq!(code, "server_certificate_refused");
    assert!(message.contains("another authority"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_server_is_refused_by_a_site_that_has_the_list() {
    let consortium = Consortium::new();
    let server = consortium.serve(ServerState::new()).await;
    consortium.authority.revoke("localhost").unwrap();
    let (code, _) = refused(consortium.peer("a", &server.address)).await;
    assert_eq!(code, "server_certificate_revoked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_answers_in_the_servers_place_is_refused_by_the_site() {
    use rustls::pki_types::{PrivateKeyDer, pem::PemObject as _};
    let consortium = Consortium::new();
    let certs = consortium.certs();
    let chain = consilium_certs::read_certificates(&certs.join("b.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(certs.join("b.key")).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = acceptor.accept(stream).await;
        }
    });
    let (code, _) = refused(consortium.peer("a", &address)).await;
    assert_eq!(code, "server_certificate_wrong_role");
}

#[tokio::test(flavor = "multi_thread")]
async fn something_that_does_not_speak_tls_is_refused_by_the_site() {
    let consortium = Consortium::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        use tokio::io::AsyncWriteExt as _;
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let authority = consortium.authority.certificate();
    let (code, _) = refused(careless_peer(
        "a",
        &address,
        &consortium.certs(),
        &authority,
    ))
    .await;
    assert_eq!(code, "tls_failed");
}
