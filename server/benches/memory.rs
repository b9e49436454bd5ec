//! Resident memory and throughput of the server program in one round of 30 million parameters.
//!
//! `cargo bench --workspace --bench memory`
//!
//! The program runs as a process of its own, so that its memory is the server's alone. Sites in this
//! process download the model and upload one update each, all at the same time, over mutual TLS on
//! loopback. They share the processors with the server.

use std::hint::black_box;
use std::io::{self, BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use consilium_certs::{Authority, Identity, Role, client_config};
use consilium_core::study::{
    Aggregation, ModelChoice, PROTOCOL_VERSION, Participant, Randomness, Schedule, WeightRule,
};
use consilium_core::vector::values_to_bytes;
use consilium_core::{Digest, GroupName, ModelManifest, ModelVector, Seed, Study, TensorSpec};
use consilium_proto::consortium_client::ConsortiumClient;
use consilium_proto::upload_message::Message;
use consilium_proto::{
    Attempt, AwaitAssignmentRequest, DownloadGroupRequest, GroupChunk, GroupLength,
    MAX_CHUNK_BYTES, MAX_MESSAGE_BYTES, UpdateHeader, UploadMessage, digest_to_wire,
};
use hyper_util::rt::TokioIo;
use sha2::{Digest as _, Sha256};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

/// Groups in name order with their numbers of values: 30 million in all.
const GROUPS: [(&str, usize); 3] = [
    ("head/t", 1_000_000),
    ("stem/m", 1_000_000),
    ("trunk", 28_000_000),
];
const VALUES: usize = 30_000_000;
const GIGABYTES: f64 = VALUES as f64 * 4e-9;
const MEGABYTES: f64 = VALUES as f64 * 4e-6;

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let copy = memory_copy();
    println!("{VALUES} parameters, {MEGABYTES:.0} MB per model and per update");
    println!("memory copy {copy:.2} GB/s\n");
    println!(
        "{:>5} {:>8} {:>8} {:>8} {:>7} {:>9} {:>9} {:>6} {:>9} {:>6}",
        "sites",
        "idle MB",
        "peak MB",
        "above MB",
        "models",
        "down GB/s",
        "up GB/s",
        "/copy",
        "sum GB/s",
        "/copy"
    );
    for sites in [2, 8, 32] {
        let round = runtime.block_on(one_round(sites));
        let above = round.peak - round.idle;
        println!(
            "{sites:>5} {:>8.1} {:>8.1} {above:>8.1} {:>7.2} {:>9.2} {:>9.2} {:>6.2} {:>9.2} {:>6.2}",
            round.idle,
            round.peak,
            above / MEGABYTES,
            round.down,
            round.up,
            round.up / copy,
            round.sum,
            round.sum / copy
        );
    }
    println!(
        "\npeak: the largest resident memory from the start of the program to the commit; above: beyond the\n\
         program that listens and waits; sum: from the last upload to the commit, all contributors' bytes."
    );
}

/// Gigabytes per second of a plain copy of one model.
fn memory_copy() -> f64 {
    let from = vec![1.0_f32; VALUES];
    let mut to = vec![0.0_f32; VALUES];
    (0..5)
        .map(|_| {
            let start = Instant::now();
            black_box(&mut to).copy_from_slice(black_box(&from));
            GIGABYTES / start.elapsed().as_secs_f64()
        })
        .fold(0.0, f64::max)
}

/// What one round needed: megabytes, and gigabytes per second of all sites together.
struct Round {
    idle: f64,
    peak: f64,
    down: f64,
    up: f64,
    sum: f64,
}

async fn one_round(sites: usize) -> Round {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let study = prepare(folder.path(), sites);
    let server = Server::start(folder.path());
    let idle = server.memory("VmRSS");
    let update = Update::new();
    let all = GIGABYTES * sites as f64;

    let mut ready = Vec::new();
    for index in 0..sites {
        let client = connect(folder.path(), &name(index), server.address).await;
        let header = update.header(&study, index);
        ready.push((index, client, header));
    }
    let start = Instant::now();
    let mut downloads = JoinSet::new();
    for (_, client, _) in &ready {
        downloads.spawn(download(client.clone(), study.clone()));
    }
    downloads.join_all().await;
    let down = all / start.elapsed().as_secs_f64();

    let start = Instant::now();
    let mut uploads = JoinSet::new();
    let mut last = ready[0].1.clone();
    for (index, mut client, header) in ready {
        let messages = tokio_stream::iter(update.clone().messages(index, header));
        uploads.spawn(async move {
            client.upload_update(messages).await.expect("an upload");
        });
    }
    uploads.join_all().await;
    let up = all / start.elapsed().as_secs_f64();

    let start = Instant::now();
    committed(&mut last, &study).await;
    let sum = all / start.elapsed().as_secs_f64();
    Round {
        idle,
        peak: server.memory("VmHWM"),
        down,
        up,
        sum,
    }
}

fn name(index: usize) -> String {
    format!("site-{index:02}")
}

/// Writes certificates, study, initial model and configuration to `folder`.
fn prepare(folder: &Path, sites: usize) -> Study {
    let certs = folder.join("certs");
    let authority = Authority::create_with_unencrypted_key(&certs, "bench").expect("an authority");
    authority
        .issue_server(&["localhost".into()], &certs)
        .expect("a certificate");
    for index in 0..sites {
        let site = name(index).parse().expect("a name");
        authority.issue_site(&site, &certs).expect("a certificate");
    }
    let group = |name: &str| -> GroupName { name.parse().expect("a name") };
    let initial = ModelVector(
        GROUPS
            .map(|(name, length)| (group(name), vec![0.5; length]))
            .into(),
    );
    let study = Study {
        protocol_version: PROTOCOL_VERSION,
        name: "bench".parse().expect("a name"),
        randomness: Randomness::SimulationSeeded { seed: Seed(1) },
        model: ModelChoice {
            name: "bench".into(),
            settings: serde_json::Value::Null,
        },
        manifest: ModelManifest {
            tensors: GROUPS
                .map(|(name, length)| TensorSpec {
                    name: name.into(),
                    group: group(name),
                    shape: vec![length / 1000, 1000],
                })
                .into(),
        },
        initial_model_sha256: initial.sha256(),
        sites: (0..sites)
            .map(|index| Participant {
                site: name(index).parse().expect("a name"),
                modality: "m".parse().expect("a name"),
                task: "t".parse().expect("a name"),
                declared_patients: 10,
                privacy: None,
            })
            .collect(),
        schedule: Schedule {
            rounds: 2,
            retry_rounds: 0,
            quorum: sites as u32,
            deadline_seconds: 3600,
        },
        training: serde_json::Value::Null,
        privacy: consilium_core::study::PrivacyMode::NoneSimulationOnly,
        aggregation: Aggregation {
            weights: WeightRule::EqualSite,
            minimum_holders: 2,
        },
    };
    let write = |name: &str, bytes: Vec<u8>| {
        std::fs::write(folder.join(name), bytes).expect("room on the disk");
    };
    let model = initial.to_safetensors(&study.manifest).expect("a file");
    write("initial.safetensors", model);
    write("study.json", serde_json::to_vec(&study).expect("JSON"));
    let config = "listen = \"127.0.0.1:0\"\nstate = \"state\"\nstudy = \"study.json\"\n\
         initial_model = \"initial.safetensors\"\n[identity]\ncertificate = \"certs/server.pem\"\n\
         key = \"certs/server.key\"\nauthority = \"certs/authority.pem\"\n";
    write("server.toml", config.into());
    study
}

/// The server program, ended when dropped.
struct Server {
    process: Child,
    address: SocketAddr,
}

impl Server {
    fn start(folder: &Path) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_consilium-server"))
            .args(["serve", "--config", "server.toml"])
            .current_dir(folder)
            .env("RUST_LOG", "info")
            .stderr(Stdio::piped())
            .spawn()
            .expect("the server program");
        let log = process.stderr.take().expect("a pipe");
        let mut lines = BufReader::new(log).lines().map_while(Result::ok);
        let address = lines
            .by_ref()
            .find_map(|line| {
                let line: serde_json::Value = serde_json::from_str(&line).ok()?;
                line["address"].as_str()?.parse().ok()
            })
            .expect("the server listens");
        // What the server writes afterwards must be taken, or the pipe fills up.
        std::thread::spawn(move || {
            for line in lines.filter(|line| line.contains("\"ERROR\"")) {
                eprintln!("{line}");
            }
        });
        Self { process, address }
    }

    /// A value of `/proc/PID/status` in megabytes.
    fn memory(&self, key: &str) -> f64 {
        let path = format!("/proc/{}/status", self.process.id());
        let status = std::fs::read_to_string(path).expect("the status of a Linux process");
        let kibibytes: f64 = status
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
            .and_then(|value| value.trim().strip_suffix(" kB")?.parse().ok())
            .expect("a size");
        kibibytes * 1024.0 / 1e6
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn connect(folder: &Path, site: &str, address: SocketAddr) -> ConsortiumClient<Channel> {
    let certs = folder.join("certs");
    let [certificate, key] = ["pem", "key"].map(|kind| certs.join(format!("{site}.{kind}")));
    let identity = Identity::load(&certificate, &key, Role::Site).expect("an identity");
    let tls = client_config(identity, &certs.join("authority.pem")).expect("an authority");
    let connector = TlsConnector::from(Arc::new(tls));
    let open = service_fn(move |_: Uri| {
        let connector = connector.clone();
        async move {
            let tcp = tokio::net::TcpStream::connect(address).await?;
            tcp.set_nodelay(true)?;
            let name = rustls_pki_types::ServerName::try_from("localhost").expect("a name");
            Ok::<_, io::Error>(TokioIo::new(connector.connect(name, tcp).await?))
        }
    });
    let channel = Endpoint::from_static("http://server")
        .connect_with_connector(open)
        .await
        .expect("a connection");
    ConsortiumClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

async fn download(mut client: ConsortiumClient<Channel>, study: Study) {
    for (group, length) in GROUPS {
        let request = DownloadGroupRequest {
            study: digest_to_wire(&study.digest()),
            model: digest_to_wire(&study.initial_model_sha256),
            group: group.into(),
            offset: 0,
        };
        let reply = client.download_group(request).await.expect("a download");
        let mut chunks = reply.into_inner();
        let mut bytes = 0;
        while let Some(chunk) = chunks.message().await.expect("a chunk") {
            bytes += black_box(chunk.values).len();
        }
        assert_eq!(bytes, 4 * length);
    }
}

/// Waits until the round is committed.
async fn committed(client: &mut ConsortiumClient<Channel>, study: &Study) {
    let first = Attempt {
        round: 1,
        attempt: 1,
    };
    loop {
        let question = AwaitAssignmentRequest {
            study: digest_to_wire(&study.digest()),
            sealed: Some(first),
            known: Some(first),
            wait_milliseconds: 60_000,
        };
        let answer = client.await_assignment(question).await.expect("an answer");
        if let Some(used) = answer.into_inner().sealed_was_used {
            assert!(used);
            return;
        }
    }
}

/// Every site's update: one mebibyte of small values again and again, each time with a mark of the site.
#[derive(Clone)]
struct Update(Arc<[u8]>);

impl Update {
    fn new() -> Self {
        let value = |index| (index % 1013) as f32 * 1e-4 - 0.05;
        let values: Vec<f32> = (0..MAX_CHUNK_BYTES / 4).map(value).collect();
        Self(values_to_bytes(&values).into())
    }

    fn chunks(self, site: usize) -> impl Iterator<Item = GroupChunk> + Send {
        GROUPS.into_iter().flat_map(move |(group, length)| {
            let pattern = Arc::clone(&self.0);
            (0..4 * length).step_by(MAX_CHUNK_BYTES).map(move |offset| {
                let mut values = pattern[..MAX_CHUNK_BYTES.min(4 * length - offset)].to_vec();
                values[..4].copy_from_slice(&(site as f32 * 1e-3).to_le_bytes());
                GroupChunk {
                    group: group.into(),
                    offset: offset as u64 / 4,
                    values: values.into(),
                }
            })
        })
    }

    fn header(&self, study: &Study, site: usize) -> UpdateHeader {
        let mut hasher = Sha256::new();
        for chunk in self.clone().chunks(site) {
            hasher.update(&chunk.values);
        }
        let digest: [u8; 32] = hasher.finalize().into();
        UpdateHeader {
            study: digest_to_wire(&study.digest()),
            round: 1,
            attempt: 1,
            site: name(site),
            digest: digest_to_wire(&Digest::from(digest)),
            groups: GROUPS
                .map(|(group, values)| GroupLength {
                    group: group.into(),
                    values: values as u64,
                })
                .into(),
            privacy: Vec::new(),
            ledger: None,
        }
    }

    fn messages(
        self,
        site: usize,
        header: UpdateHeader,
    ) -> impl Iterator<Item = UploadMessage> + Send {
        let chunks = self.chunks(site).map(Message::Chunk);
        let messages = std::iter::once(Message::Header(header)).chain(chunks);
        messages.map(|message| UploadMessage {
            message: Some(message),
        })
    }
}
