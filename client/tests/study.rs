//! The agent against a server: whole studies, kills, lost connections, and what leaves the site.

mod consortium;

use std::sync::Arc;
use std::time::Duration;

use consilium_core::{Digest, ModelVector, SiteId, StudyId};
use consilium_rounds::{Assignment, LedgerHead, Outcome as RoundOutcome, Sealed, Withdrawal};
use consilium_site::outcome::Outcome;
use consilium_site::peer::{Attempt, Peer, PeerError, Question, Uploaded, Wanted};
use consilium_site::work::MetricValue;
use consilium_transparency::{Signed, View, Witnessed};
use consortium::{Consortium, ROUNDS, SITES, ServerState, Toy, expected, site, wanted};
use tokio::sync::Notify;

#[tokio::test(flavor = "multi_thread")]
async fn three_sites_end_with_the_model_that_no_network_would_change() {
    let (consortium, state) = (Consortium::new(), ServerState::new());
    let server = consortium.serve(Arc::clone(&state)).await;
    let outcomes = consortium.run_all(&SITES, &server.address).await;
    for outcome in &outcomes {
        assert_eq!(outcome.final_model_sha256, expected().sha256());
        assert_eq!(outcome.rounds_used, ROUNDS);
        assert_eq!(counted(outcome), f64::from(ROUNDS));
        let written = std::fs::read(consortium.metrics_file(outcome.site.as_str())).unwrap();
        assert_eq!(
            &serde_json::from_slice::<Outcome>(&written).unwrap(),
            outcome
        );
    }
    let bytes = 4 * expected().len() as u64;
    assert_eq!(outcomes[0].traffic.up, u64::from(ROUNDS) * bytes);
    assert_eq!(outcomes[0].traffic.down, u64::from(ROUNDS + 1) * bytes);
    // Sites with the same stem keep it to themselves all the same: two holders are too few.
    assert_eq!(
        outcomes[0].local_groups_sha256,
        outcomes[1].local_groups_sha256
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_the_shared_groups_reaches_the_wire() {
    let (consortium, state) = (Consortium::new(), ServerState::new());
    let server = consortium.serve(Arc::clone(&state)).await;
    consortium.run_all(&SITES, &server.address).await;
    let inner = state.inner();
    for name in SITES {
        let sent = inner
            .arrived_groups
            .iter()
            .filter(|(from, _)| *from == site(name));
        let sent: std::collections::BTreeSet<String> =
            sent.map(|(_, group)| group.to_string()).collect();
        assert_eq!(sent.into_iter().collect::<Vec<_>>(), ["head/t", "trunk"]);
    }
    assert!(
        inner
            .downloads
            .iter()
            .all(|(_, group, _)| !group.starts_with("stem/"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_killed_after_the_plan_arrived_ends_with_the_same_model() {
    a_site_is_killed(StopAt::Download).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_killed_between_sealing_and_upload_ends_with_the_same_model() {
    a_site_is_killed(StopAt::BeforeUpload).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_killed_between_upload_and_receipt_ends_with_the_same_model() {
    a_site_is_killed(StopAt::AfterUpload).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_killed_around_its_counter_signature_of_the_log_ends_with_the_same_model() {
    a_site_is_killed(StopAt::BeforeWitness).await;
    a_site_is_killed(StopAt::AfterWitness).await;
}

async fn a_site_is_killed(at: StopAt) {
    let (consortium, state) = (Consortium::new(), ServerState::new());
    let server = consortium.serve(Arc::clone(&state)).await;
    let others = async { consortium.run_all(&["b", "c"], &server.address).await };
    let killed = async {
        for _ in 0..2 {
            let reached = Arc::new(Notify::new());
            let peer = Stopping {
                inner: consortium.peer("a", &server.address),
                at,
                reached: Arc::clone(&reached),
            };
            tokio::select! {
                ended = consortium.run("a", peer, Toy::make()) => panic!("not stopped: {ended:?}"),
                () = reached.notified() => {}
            }
        }
        consortium.run_all(&["a"], &server.address).await.remove(0)
    };
    let (_, outcome) = tokio::join!(others, killed);
    assert_eq!(outcome.final_model_sha256, expected().sha256());
    assert_eq!(counted(&outcome), f64::from(ROUNDS));
    let inner = state.inner();
    assert_eq!(inner.uploads[&site("a")], ROUNDS);
    for record in inner.coordination.closed.iter() {
        assert_eq!(record.missing, []);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_update_is_sent_again_and_not_trained_again() {
    let (consortium, state) = (Consortium::new(), ServerState::new());
    let server = consortium.serve(Arc::clone(&state)).await;
    for _ in 0..2 {
        let reached = Arc::new(Notify::new());
        let peer = Stopping {
            inner: consortium.peer("a", &server.address),
            at: StopAt::BeforeUpload,
            reached: Arc::clone(&reached),
        };
        tokio::select! {
            ended = consortium.run("a", peer, Toy::make()) => panic!("not stopped: {ended:?}"),
            () = reached.notified() => {}
        }
    }
    // One download means one training: the second process went straight to the upload.
    let downloads = state.inner().downloads.len();
    assert_eq!(downloads, consortium::initial().0.len());
    let store = consortium.store("a").await;
    let accepted = store
        .accepted(&"toy".parse().unwrap())
        .await
        .unwrap()
        .unwrap();
    let sealed = accepted.participation.sealed.unwrap();
    let others = async { consortium.run_all(&["b", "c"], &server.address).await };
    let first = async { consortium.run_all(&["a"], &server.address).await };
    let _ = tokio::join!(others, first);
    let closed = &state.inner().coordination.closed[0];
    assert_eq!(closed.received[&site("a")], sealed.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn sites_wait_for_a_server_that_was_killed_and_comes_back() {
    let (consortium, state) = (Consortium::new(), ServerState::new());
    let server = consortium.serve(Arc::clone(&state)).await;
    let address = server.address.clone();
    let sites = async { consortium.run_all(&SITES, &address).await };
    let operator = async {
        state
            .wait_until(|inner| inner.coordination.committed_rounds() == 1)
            .await;
        server.kill();
        tokio::time::sleep(Duration::from_millis(700)).await;
        let again = address.replace("localhost", "127.0.0.1");
        consortium.serve_at(Arc::clone(&state), &again).await
    };
    let (outcomes, _server) = tokio::join!(sites, operator);
    for outcome in outcomes {
        assert_eq!(outcome.final_model_sha256, expected().sha256());
        assert_eq!(counted(&outcome), f64::from(ROUNDS));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_was_too_late_rolls_its_local_groups_back_and_goes_on() {
    let (consortium, state) = (Consortium::new(), ServerState::new());
    let server = consortium.serve(Arc::clone(&state)).await;
    let others = async { consortium.run_all(&["b", "c"], &server.address).await };
    let late = async {
        let reached = Arc::new(Notify::new());
        let peer = Stopping {
            inner: consortium.peer("a", &server.address),
            at: StopAt::BeforeUpload,
            reached: Arc::clone(&reached),
        };
        tokio::select! {
            ended = consortium.run("a", peer, Toy::make()) => panic!("not stopped: {ended:?}"),
            () = reached.notified() => {}
        }
        // Its update is sealed; the round closes with the two others.
        state.wait_until(|inner| inner.updates.len() == 2).await;
        state.pass_the_deadline();
        consortium.run_all(&["a"], &server.address).await.remove(0)
    };
    let (others, late) = tokio::join!(others, late);
    assert_eq!(counted(&late), f64::from(ROUNDS - 1));
    assert_eq!(counted(&others[0]), f64::from(ROUNDS));
    assert_eq!(late.final_model_sha256, others[0].final_model_sha256);
    assert_eq!(state.inner().coordination.closed[0].missing, [site("a")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_without_quorum_is_trained_again_from_the_same_local_groups() {
    let (consortium, state) = (Consortium::new(), ServerState::new());
    let server = consortium.serve(Arc::clone(&state)).await;
    let first = async { consortium.run_all(&["a"], &server.address).await };
    let others = async {
        state.wait_until(|inner| inner.updates.len() == 1).await;
        state.pass_the_deadline();
        assert_eq!(state.open_attempt(), Some((1, 2)));
        consortium.run_all(&["b", "c"], &server.address).await
    };
    let (first, _) = tokio::join!(first, others);
    assert_eq!(counted(&first[0]), f64::from(ROUNDS));
    assert_eq!(first[0].final_model_sha256, expected().sha256());
    let inner = state.inner();
    assert!(matches!(
        inner.coordination.closed[0].outcome,
        RoundOutcome::QuorumMissed {
            received: 1,
            quorum: 2
        }
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_had_finished_needs_no_server_any_more() {
    let (consortium, state) = (Consortium::new(), ServerState::new());
    let server = consortium.serve(Arc::clone(&state)).await;
    let outcome = consortium.run_all(&SITES, &server.address).await.remove(0);
    let address = server.address.clone();
    server.kill();
    let again = consortium.run_all(&["a"], &address).await.remove(0);
    assert_eq!(again, outcome);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_broke_off_goes_on_where_it_stopped() {
    let (consortium, state) = (Consortium::new(), ServerState::new());
    let server = consortium.serve(Arc::clone(&state)).await;
    // The head breaks off after its last value (and is asked for the nothing that is left), the trunk in the middle.
    state.inner().faults.broken_downloads = 3;
    let mut peer = consortium.peer("a", &server.address);
    for (index, values) in consortium::initial().0.values().enumerate() {
        let got = peer.group(&wanted(index)).await.unwrap();
        assert_eq!(&got, values);
    }
    let offsets: Vec<u64> = state
        .inner()
        .downloads
        .iter()
        .map(|(_, _, offset)| *offset)
        .collect();
    assert_eq!(offsets, [0, 4, 0, 262_144]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_refuses_for_now_is_asked_again_and_succeeds_later() {
    let (consortium, state) = (Consortium::new(), ServerState::new());
    let server = consortium.serve(Arc::clone(&state)).await;
    state.inner().faults.full_disk = 4;
    state.inner().faults.forgotten_models = 3;
    let started = std::time::Instant::now();
    for outcome in consortium.run_all(&SITES, &server.address).await {
        assert_eq!(outcome.final_model_sha256, expected().sha256());
        assert_eq!(counted(&outcome), f64::from(ROUNDS));
    }
    let inner = state.inner();
    assert_eq!(
        (inner.faults.full_disk, inner.faults.forgotten_models),
        (0, 0)
    );
    // Long polls of 20 s would be no way of asking again.
    assert!(started.elapsed() < Duration::from_secs(15));
}

fn counted(outcome: &Outcome) -> f64 {
    let is_it = |value: &&MetricValue| value.metric == "counted";
    outcome.metrics.iter().find(is_it).unwrap().value.unwrap()
}

/// Where an agent stands still, to be killed there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StopAt {
    Download,
    BeforeUpload,
    AfterUpload,
    BeforeWitness,
    AfterWitness,
}

/// A server that never answers at one point.
struct Stopping<P> {
    inner: P,
    at: StopAt,
    reached: Arc<Notify>,
}

impl<P> Stopping<P> {
    async fn stand_still(&self) {
        self.reached.notify_one();
        std::future::pending().await
    }
}

impl<P: Peer + Sync> Peer for Stopping<P> {
    async fn withdraw(&mut self, study: Digest, withdrawal: &Withdrawal) -> Result<(), PeerError> {
        self.inner.withdraw(study, withdrawal).await
    }

    async fn accept(&mut self, study: Digest, acceptance: &Signed) -> Result<(), PeerError> {
        self.inner.accept(study, acceptance).await
    }

    async fn rejoin(&mut self, study: Digest) -> Result<(), PeerError> {
        self.inner.rejoin(study).await
    }

    async fn study(&mut self, name: &StudyId) -> Result<Vec<u8>, PeerError> {
        self.inner.study(name).await
    }

    async fn assignment(&mut self, question: &Question) -> Result<Assignment, PeerError> {
        self.inner.assignment(question).await
    }

    async fn group(&mut self, wanted: &Wanted) -> Result<Vec<f32>, PeerError> {
        if self.at == StopAt::Download {
            self.stand_still().await;
        }
        self.inner.group(wanted).await
    }

    async fn upload(
        &mut self,
        study: Digest,
        site: &SiteId,
        sealed: Sealed,
        update: Arc<ModelVector>,
        privacy: Option<dp_rs::plan::Transcript>,
        ledger: Option<LedgerHead>,
    ) -> Result<Uploaded, PeerError> {
        if self.at == StopAt::BeforeUpload {
            self.stand_still().await;
        }
        let result = self
            .inner
            .upload(study, site, sealed, update, privacy, ledger)
            .await;
        if self.at == StopAt::AfterUpload {
            self.stand_still().await;
        }
        result
    }

    async fn read_log(
        &mut self,
        study: Digest,
        seen: u64,
        updates: &[Attempt],
        committed: u32,
    ) -> Result<View, PeerError> {
        self.inner.read_log(study, seen, updates, committed).await
    }

    async fn witness_log(&mut self, study: Digest, seen: &Witnessed) -> Result<Signed, PeerError> {
        if self.at == StopAt::BeforeWitness {
            self.stand_still().await;
        }
        let result = self.inner.witness_log(study, seen).await;
        if self.at == StopAt::AfterWitness {
            self.stand_still().await;
        }
        result
    }
}
