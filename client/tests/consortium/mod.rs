//! A small consortium: an aggregation server in memory behind real mutual TLS, and sites with toy work.

#![allow(dead_code, unused_imports, reason = "each test file uses a part of it")]

mod calls;
mod listen;
pub mod real;
mod server;
mod toy;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use consilium_certs::{Authority, Identity, Role, Signer, client_config};
use consilium_core::clock::{Clock as _, SystemClock};
use consilium_core::study::{
    Aggregation, ModelChoice, PROTOCOL_VERSION, Participant, Randomness, Schedule, WeightRule,
};
use consilium_core::vector::values_to_bytes;
use consilium_core::{Digest, ModelManifest, ModelVector, Seed, SiteId, Study, TensorSpec};
use consilium_data::manifest::Origin;
use consilium_site::agent::{Agent, AgentError, Errand, Joined, MakeWork};
use consilium_site::outcome::Outcome;
use consilium_site::peer::{Peer, Wanted};
use consilium_site::policy::Policy;
use consilium_site::privacy::{CohortFacts, SiteBudget};
use consilium_site::transport::{GrpcServer, ServerAddress, Witness};
use consilium_store::site::SiteStore;
use tempfile::TempDir;

pub use listen::{Running, serve};
pub use server::ServerState;
pub use toy::{Toy, expected};

/// The sites; `c` holds a modality of its own.
pub const SITES: [&str; 3] = ["a", "b", "c"];

/// More than one chunk.
pub const TRUNK: usize = 300_000;

pub const ROUNDS: u32 = 3;

pub fn site(name: &str) -> SiteId {
    name.parse().unwrap()
}

/// Trunk and head have three holders and are shared; the stems have two and one and stay.
pub fn study() -> Study {
    let tensor = |group: &str, length: usize| TensorSpec {
        name: group.into(),
        group: group.parse().unwrap(),
        shape: vec![length],
    };
    let participant = |name: &str, modality: &str| Participant {
        site: site(name),
        modality: modality.parse().unwrap(),
        task: "t".parse().unwrap(),
        declared_patients: 10,
        privacy: None,
    };
    Study {
        protocol_version: PROTOCOL_VERSION,
        name: "toy".parse().unwrap(),
        randomness: Randomness::SimulationSeeded { seed: Seed(1) },
        model: ModelChoice {
            name: "toy".into(),
            settings: serde_json::Value::Null,
        },
        manifest: ModelManifest {
            tensors: vec![
                tensor("trunk", TRUNK),
                tensor("head/t", 4),
                tensor("stem/m", 3),
                tensor("stem/n", 2),
            ],
        },
        initial_model_sha256: initial().sha256(),
        sites: vec![
            participant("a", "m"),
            participant("b", "m"),
            participant("c", "n"),
        ],
        schedule: Schedule {
            rounds: ROUNDS,
            retry_rounds: 2,
            quorum: 2,
            deadline_seconds: 60,
        },
        training: serde_json::Value::Null,
        privacy: consilium_core::study::PrivacyMode::NoneSimulationOnly,
        aggregation: Aggregation {
            weights: WeightRule::EqualSite,
            minimum_holders: 3,
        },
    }
}

/// The `index`th group of the initial model as a site asks for it.
pub fn wanted(index: usize) -> Wanted {
    let initial = initial();
    let (group, values) = initial.0.iter().nth(index).unwrap();
    Wanted {
        study: study().digest(),
        model: initial.sha256(),
        group: group.clone(),
        length: values.len(),
        digest: Digest::of(&values_to_bytes(values)),
    }
}

/// Initial values of the shared groups.
pub fn initial() -> ModelVector {
    ModelVector(BTreeMap::from([
        ("trunk".parse().unwrap(), vec![0.0; TRUNK]),
        ("head/t".parse().unwrap(), vec![1.0, 2.0, 3.0, 4.0]),
    ]))
}

/// An address that the system gives to nobody else, so that a server can come back on it: its port is
/// outside the range from which ports are handed out (32768 and up).
fn own_address() -> String {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let offset = (std::process::id() % 500) as u16 * 20 + NEXT.fetch_add(1, Ordering::Relaxed);
        let address = format!("127.0.0.1:{}", 20_000 + offset % 10_000);
        if std::net::TcpListener::bind(&address).is_ok() {
            return address;
        }
    }
}

/// An address that is taken but where nobody listens, as long as the socket lives.
pub fn silent_address() -> (tokio::net::TcpSocket, String) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap().to_string();
    (socket, address)
}

/// Folders, an authority, certificates for the server and every site.
pub struct Consortium {
    pub folder: TempDir,
    pub authority: Authority,
}

impl Consortium {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority =
            Authority::create_with_unencrypted_key(&folder.path().join("authority"), "toy")
                .unwrap();
        let consortium = Self { folder, authority };
        let hosts = ["localhost".to_owned()];
        let certs = consortium.certs();
        consortium.authority.issue_server(&hosts, &certs).unwrap();
        for name in SITES {
            consortium
                .authority
                .issue_site(&site(name), &certs)
                .unwrap();
        }
        consortium
    }

    pub fn certs(&self) -> PathBuf {
        self.folder.path().join("certs")
    }

    pub async fn serve(&self, state: Arc<ServerState>) -> Running {
        self.serve_at(state, &own_address()).await
    }

    pub async fn serve_at(&self, state: Arc<ServerState>, address: &str) -> Running {
        let certs = self.certs();
        let authority = self.authority.certificate();
        serve(state, &certs, &authority, address).await
    }

    /// A connection as `name`, with its own certificate.
    pub fn peer(&self, name: &str, address: &str) -> GrpcServer {
        let authority = self.authority.certificate();
        peer(
            name,
            address,
            &self.certs(),
            &authority,
            Duration::from_secs(20),
        )
    }

    pub async fn store(&self, name: &str) -> SiteStore {
        SiteStore::open(&self.folder.path().join(format!("{name}.sqlite")))
            .await
            .unwrap()
    }

    pub fn errand(&self, name: &str) -> Errand {
        Errand {
            site: site(name),
            study: "toy".parse().unwrap(),
            metrics_file: self.metrics_file(name),
            policy: self.write_policy(name, &study(), None),
        }
    }

    /// Accepts `study` in writing for `name`.
    pub async fn accept(&self, name: &str, study: &Study, store: &SiteStore) {
        let [certificate, key] =
            ["pem", "key"].map(|kind| self.certs().join(format!("{name}.{kind}")));
        let identity = Identity::load(&certificate, &key, Role::Site).unwrap();
        let signer = Signer::of(&identity).unwrap();
        let (policy, now) = (Digest::of(b"policy"), SystemClock.now());
        let signed =
            consilium_site::acceptance::sign(&signer, &site(name), study, policy, now).unwrap();
        let kept = store.accept_in_writing(&study.name, study.digest(), &signed);
        kept.await.unwrap();
    }

    /// Writes a policy that permits `study` at site `name`, and says where.
    pub fn write_policy(&self, name: &str, study: &Study, budget: Option<SiteBudget>) -> PathBuf {
        let path = self.folder.path().join(format!("{name}.policy.toml"));
        let participant = study.participant(&site(name)).unwrap();
        let policy = Policy::exactly(study, participant, budget);
        std::fs::write(&path, toml::to_string(&policy).unwrap()).unwrap();
        path
    }

    pub fn metrics_file(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.json"))
    }

    /// Runs the agent of one site to its end.
    pub async fn run<P: Peer>(
        &self,
        name: &str,
        peer: P,
        work: MakeWork,
    ) -> Result<Outcome, AgentError> {
        let store = self.store(name).await;
        self.accept(name, &study(), &store).await;
        let clock = Arc::new(SystemClock);
        let ended = match Agent::join(
            self.errand(name),
            store.clone(),
            peer,
            clock,
            Box::new(|| Ok((simulated(), work))),
        )
        .await
        {
            Ok(Joined::Finished(outcome)) => Ok(outcome),
            Ok(Joined::Agent(agent)) => agent.run().await,
            Err(error) => Err(error),
        };
        store.close().await;
        ended
    }

    /// Runs these sites beside each other to their ends.
    pub async fn run_all(&self, names: &[&str], address: &str) -> Vec<Outcome> {
        let runs = names
            .iter()
            .map(|name| self.run(name, self.peer(name, address), Toy::make()));
        let mut outcomes = Vec::new();
        for outcome in join_all(runs).await {
            outcomes.push(outcome.unwrap());
        }
        outcomes
    }
}

/// A cohort of nobody.
pub fn simulated() -> CohortFacts {
    CohortFacts {
        manifest: "cohort.toml".into(),
        origin: Origin::Simulated,
        fitted: Vec::new(),
    }
}

/// Awaits several futures together.
pub async fn join_all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut waiting: Vec<_> = futures
        .into_iter()
        .map(|future| (Box::pin(future), None))
        .collect();
    std::future::poll_fn(|context| {
        let mut ready = true;
        for (future, output) in &mut waiting {
            if output.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(value) => *output = Some(value),
                    std::task::Poll::Pending => ready = false,
                }
            }
        }
        if ready {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    waiting
        .into_iter()
        .filter_map(|(_, output)| output)
        .collect()
}

/// A connection as `name`, with the files in `certs`, trusting `authority`.
pub fn peer(
    name: &str,
    address: &str,
    certs: &Path,
    authority: &Path,
    patience: Duration,
) -> GrpcServer {
    let [certificate, key] = ["pem", "key"].map(|kind| certs.join(format!("{name}.{kind}")));
    let identity = Identity::load(&certificate, &key, Role::Site).unwrap();
    let address = ServerAddress {
        address: address.to_owned(),
        name: "localhost".try_into().unwrap(),
        proxy: None,
    };
    let witness = Witness::new(&identity, authority).unwrap();
    let tls = client_config(identity, authority).unwrap();
    GrpcServer::new(address, tls, witness, site(name), patience)
}

/// A connection that shows a certificate without looking at it first, as a broken agent would.
pub fn careless_peer(name: &str, address: &str, certs: &Path, authority: &Path) -> GrpcServer {
    use rustls::pki_types::{PrivateKeyDer, pem::PemObject as _};
    let chain = consilium_certs::read_certificates(&certs.join(format!("{name}.pem"))).unwrap();
    let key = PrivateKeyDer::from_pem_file(certs.join(format!("{name}.key"))).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    for certificate in consilium_certs::read_certificates(authority).unwrap() {
        roots.add(certificate).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let address = ServerAddress {
        address: address.to_owned(),
        name: "localhost".try_into().unwrap(),
        proxy: None,
    };
    // Never comes to sign anything.
    let folder = tempfile::tempdir().unwrap();
    let stranger = Authority::create_with_unencrypted_key(folder.path(), "stranger").unwrap();
    stranger.issue_site(&site(name), folder.path()).unwrap();
    let [pem, key] = ["pem", "key"].map(|kind| folder.path().join(format!("{name}.{kind}")));
    let identity = Identity::load(&pem, &key, Role::Site).unwrap();
    let witness = Witness::new(&identity, authority).unwrap();
    GrpcServer::new(address, tls, witness, site(name), Duration::from_secs(20))
}
