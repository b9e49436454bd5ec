//! A real server behind real TLS, with certificates and raw clients.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use consilium_certs::{Authority, Identity, Role, client_config};
use consilium_core::clock::{Clock, SystemClock, Timestamp};
use consilium_core::study::{
    Aggregation, ModelChoice, PROTOCOL_VERSION, Participant, Randomness, Schedule, WeightRule,
};
use consilium_core::vector::values_to_bytes;
use consilium_core::{Digest, ModelManifest, ModelVector, Seed, SiteId, Study, TensorSpec};
use consilium_proto::consortium_client::ConsortiumClient;
use consilium_proto::upload_message::Message;
use consilium_proto::{
    GroupChunk, GroupLength, MAX_CHUNK_BYTES, Refused, UpdateHeader, UploadMessage, digest_to_wire,
};
use consilium_rounds::Phase;
use consilium_server::config::ServerConfig;
use consilium_server::listen::{Running, start_with};
use consilium_store::server::Blobs;
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::Status;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

/// Members of the study. The trunk and the head have three holders, the stems one or two.
pub const SITES: [(&str, &str); 3] = [("a", "m"), ("b", "m"), ("c", "n")];
pub const TRUNK: usize = 5;

/// A clock that the test moves.
#[derive(Default)]
pub struct Hand(pub AtomicU64);

impl Clock for Hand {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

pub fn initial() -> ModelVector {
    ModelVector(BTreeMap::from([
        ("head/t".parse().unwrap(), vec![1.0, 2.0]),
        ("trunk".parse().unwrap(), vec![0.0; TRUNK]),
    ]))
}

/// The initial model with `value` added everywhere.
pub fn initial_plus(value: f32) -> ModelVector {
    let groups = initial().0.into_iter();
    let moved = |values: Vec<f32>| values.iter().map(|x| x + value).collect();
    ModelVector(
        groups
            .map(|(group, values)| (group, moved(values)))
            .collect(),
    )
}

pub fn study() -> Study {
    let tensor = |group: &str, length: usize| TensorSpec {
        name: group.into(),
        group: group.parse().unwrap(),
        shape: vec![length],
    };
    Study {
        protocol_version: PROTOCOL_VERSION,
        name: "border".parse().unwrap(),
        randomness: Randomness::SimulationSeeded { seed: Seed(1) },
        model: ModelChoice {
            name: "toy".into(),
            settings: serde_json::Value::Null,
        },
        manifest: ModelManifest {
            tensors: vec![
                tensor("trunk", TRUNK),
                tensor("head/t", 2),
                tensor("stem/m", 3),
                tensor("stem/n", 3),
            ],
        },
        initial_model_sha256: initial().sha256(),
        sites: SITES
            .map(|(site, modality)| Participant {
                site: site.parse().unwrap(),
                modality: modality.parse().unwrap(),
                task: "t".parse().unwrap(),
                declared_patients: 10,
                privacy: None,
            })
            .to_vec(),
        schedule: Schedule {
            rounds: 2,
            retry_rounds: 1,
            quorum: 3,
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

/// A running server with certificates for the sites and for a stranger.
pub struct Consortium {
    pub folder: TempDir,
    pub clock: Arc<Hand>,
    pub study: Study,
    pub running: Option<Running>,
}

impl Consortium {
    pub async fn new() -> Self {
        Self::with(study(), |blobs| blobs).await
    }

    pub async fn with(study: Study, change: impl FnOnce(Blobs) -> Blobs) -> Self {
        Self::of(study, &initial(), change).await
    }

    /// With a clock that shows the present time: certificates are judged by it.
    pub async fn today(study: Study) -> Self {
        Self::at(SystemClock.now(), study, &initial(), |blobs| blobs).await
    }

    /// With these initial values of the shared groups.
    pub async fn of(
        study: Study,
        initial: &ModelVector,
        change: impl FnOnce(Blobs) -> Blobs,
    ) -> Self {
        Self::at(Timestamp(0), study, initial, change).await
    }

    async fn at(
        now: Timestamp,
        study: Study,
        initial: &ModelVector,
        change: impl FnOnce(Blobs) -> Blobs,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let certs = folder.path().join("certs");
        let authority = Authority::create_with_unencrypted_key(&certs, "test").unwrap();
        authority
            .issue_server(&["localhost".into()], &certs)
            .unwrap();
        for name in ["a", "b", "c", "stranger"] {
            authority
                .issue_site(&name.parse().unwrap(), &certs)
                .unwrap();
        }
        std::fs::write(
            folder.path().join("study.json"),
            serde_json::to_vec(&study).unwrap(),
        )
        .unwrap();
        let model = initial.to_safetensors(&study.manifest).unwrap();
        std::fs::write(folder.path().join("initial.safetensors"), model).unwrap();
        let mut consortium = Self {
            folder,
            clock: Arc::new(Hand(now.0.into())),
            study,
            running: None,
        };
        consortium.start(change).await;
        consortium
    }

    pub fn config(&self) -> ServerConfig {
        let text = "listen = \"127.0.0.1:0\"\nstate = \"state\"\nstudy = \"study.json\"\n\
             initial_model = \"initial.safetensors\"\n[identity]\ncertificate = \"certs/server.pem\"\n\
             key = \"certs/server.key\"\nauthority = \"certs/authority.pem\"\n";
        let path = self.folder.path().join("server.toml");
        std::fs::write(&path, text).unwrap();
        ServerConfig::read(&path).unwrap()
    }

    pub async fn start(&mut self, change: impl FnOnce(Blobs) -> Blobs) {
        let clock: Arc<dyn Clock> = Arc::clone(&self.clock) as _;
        self.running = Some(start_with(&self.config(), clock, change).await.unwrap());
    }

    /// Stops the server and starts it again on the same folder.
    pub async fn restart(&mut self, change: impl FnOnce(Blobs) -> Blobs) {
        self.running.take().unwrap().stop().await;
        self.start(change).await;
    }

    pub fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    pub fn certs(&self) -> PathBuf {
        self.folder.path().join("certs")
    }

    pub fn identity(&self, name: &str) -> Identity {
        load(&self.certs(), name)
    }

    pub async fn site(&self, name: &str) -> ConsortiumClient<Channel> {
        self.connect(self.identity(name)).await.unwrap()
    }

    pub async fn connect(
        &self,
        identity: Identity,
    ) -> Result<ConsortiumClient<Channel>, tonic::transport::Error> {
        self.connect_with(client_config(identity, &self.certs().join("authority.pem")).unwrap())
            .await
    }

    pub async fn connect_with(
        &self,
        tls: rustls::ClientConfig,
    ) -> Result<ConsortiumClient<Channel>, tonic::transport::Error> {
        let channel = self.channel(tls).await?;
        Ok(ConsortiumClient::new(channel).max_encoding_message_size(64 << 20))
    }

    /// The certificate that the server shows now, DER.
    pub async fn shown_certificate(&self) -> Vec<u8> {
        let stream = self.tls(careless_config(&self.certs(), None)).await;
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    }

    /// A connection below HTTP/2.
    pub async fn tls(&self, tls: rustls::ClientConfig) -> TlsStream<TcpStream> {
        let tcp = TcpStream::connect(self.running().address).await.unwrap();
        let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
        let connector = TlsConnector::from(Arc::new(tls));
        connector.connect(name, tcp).await.unwrap()
    }

    pub async fn channel(
        &self,
        tls: rustls::ClientConfig,
    ) -> Result<Channel, tonic::transport::Error> {
        let connector = TlsConnector::from(Arc::new(tls));
        let address = self.running().address;
        let open = service_fn(move |_: Uri| {
            let connector = connector.clone();
            async move {
                let tcp = TcpStream::connect(address).await?;
                let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
                Ok::<_, io::Error>(TokioIo::new(connector.connect(name, tcp).await?))
            }
        });
        Endpoint::from_static("http://server")
            .connect_with_connector(open)
            .await
    }

    /// A correct upload of `site` in which every value is `value`.
    pub fn upload(&self, site: &str, value: f32) -> Vec<UploadMessage> {
        let update = ModelVector(
            initial()
                .0
                .into_iter()
                .map(|(group, old)| (group, vec![value; old.len()]))
                .collect(),
        );
        self.upload_of(site, &update)
    }

    /// A correct upload of `site` with these values, in chunks as large as they may be.
    pub fn upload_of(&self, site: &str, update: &ModelVector) -> Vec<UploadMessage> {
        let header = UpdateHeader {
            study: digest_to_wire(&self.study.digest()),
            round: 1,
            attempt: 1,
            site: site.into(),
            digest: digest_to_wire(&update.sha256()),
            groups: update
                .0
                .iter()
                .map(|(group, values)| GroupLength {
                    group: group.to_string(),
                    values: values.len() as u64,
                })
                .collect(),
            privacy: Vec::new(),
            ledger: None,
        };
        const CHUNK: usize = MAX_CHUNK_BYTES / 4;
        let chunks = update.0.iter().flat_map(|(group, values)| {
            values.chunks(CHUNK).enumerate().map(move |(index, chunk)| {
                Message::Chunk(GroupChunk {
                    group: group.to_string(),
                    offset: (index * CHUNK) as u64,
                    values: values_to_bytes(chunk).into(),
                })
            })
        });
        [Message::Header(header)]
            .into_iter()
            .chain(chunks)
            .map(|message| UploadMessage {
                message: Some(message),
            })
            .collect()
    }

    pub async fn send(&self, site: &str, messages: Vec<UploadMessage>) -> Result<bool, Status> {
        let mut client = self.site(site).await;
        let reply = client.upload_update(tokio_stream::iter(messages)).await?;
        Ok(reply.into_inner().already_stored)
    }

    /// Sends a correct update of `site` in which every value is `value`; says whether it was there already.
    pub async fn give(&self, site: &str, value: f32) -> Result<bool, Status> {
        self.send(site, self.upload(site, value)).await
    }

    pub async fn received(&self) -> Vec<SiteId> {
        match self.running().consortium().coordination().await.phase {
            Phase::Training { received, .. } => received.into_keys().collect(),
            phase => panic!("{phase:?}"),
        }
    }

    /// Waits until `found` is true of the study's state.
    pub async fn until(&self, found: impl Fn(&consilium_rounds::Coordination) -> bool) {
        for _ in 0..500 {
            if found(&self.running().consortium().coordination().await) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{:?}", self.running().consortium().coordination().await);
    }

    /// The file of a blob.
    pub fn blob(&self, digest: &Digest) -> PathBuf {
        let blobs = self.folder.path().join("state/blobs");
        blobs.join(digest.to_string())
    }

    /// Files in the blob folder, half-written ones included.
    pub fn blobs(&self) -> usize {
        std::fs::read_dir(self.folder.path().join("state/blobs"))
            .unwrap()
            .count()
    }
}

pub fn load(certs: &Path, name: &str) -> Identity {
    let (certificate, key) = (
        certs.join(format!("{name}.pem")),
        certs.join(format!("{name}.key")),
    );
    Identity::load(&certificate, &key, Role::Site).unwrap()
}

/// A peer that checks nothing about its own certificate.
pub fn careless_config(certs: &Path, files: Option<(PathBuf, PathBuf)>) -> rustls::ClientConfig {
    use rustls_pki_types::PrivateKeyDer;
    use rustls_pki_types::pem::PemObject as _;
    let mut roots = rustls::RootCertStore::empty();
    for root in consilium_certs::read_certificates(&certs.join("authority.pem")).unwrap() {
        roots.add(root).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match files {
        Some((certificate, key)) => builder
            .with_client_auth_cert(
                consilium_certs::read_certificates(&certificate).unwrap(),
                PrivateKeyDer::from_pem_file(key).unwrap(),
            )
            .unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

pub fn code(status: &Status) -> String {
    Refused::from_status(status).map_or_else(|| format!("{status:?}"), |refused| refused.code)
}

pub fn header(messages: &mut [UploadMessage]) -> &mut UpdateHeader {
    match &mut messages[0].message {
        Some(Message::Header(header)) => header,
        other => panic!("{other:?}"),
    }
}

/// Changes the bytes of a chunk.
pub fn bytes(messages: &mut [UploadMessage], index: usize, change: impl FnOnce(&mut Vec<u8>)) {
    let values = &mut chunk(messages, index).values;
    let mut bytes = values.to_vec();
    change(&mut bytes);
    *values = bytes.into();
}

pub fn chunk(messages: &mut [UploadMessage], index: usize) -> &mut GroupChunk {
    match &mut messages[index].message {
        Some(Message::Chunk(chunk)) => chunk,
        other => panic!("{other:?}"),
    }
}
