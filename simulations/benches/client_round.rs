//! Processor time of the whole federation per site and round, for a model of 14 parameters.
//!
//! `cargo bench --workspace --bench client_round`
//!
//! In process: what `consilium simulate` does, with an update that costs nothing instead of training.
//! Over mutual TLS: the real server and the real agents on loopback, with their databases and files; both
//! sides are counted, system time and the joining of the study included.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use consilium::federation;
use consilium_certs::{Authority, Identity, Role, client_config};
use consilium_core::clock::SystemClock;
use consilium_core::study::{
    Aggregation, ModelChoice, PROTOCOL_VERSION, Participant, Randomness, Schedule, WeightRule,
};
use consilium_core::{ModelManifest, ModelVector, RoundPlan, Seed, SiteId, Study, TensorSpec};
use consilium_data::manifest::Origin;
use consilium_server::config::ServerConfig;
use consilium_server::listen;
use consilium_site::agent::{Agent, Errand, Joined, MakeWork};
use consilium_site::policy::Policy;
use consilium_site::privacy::CohortFacts;
use consilium_site::transport::{GrpcServer, ServerAddress, Witness};
use consilium_site::work::{LocalWork, MetricValue, Progress, Trained, WorkError};
use consilium_store::site::SiteStore;

const SITES: u32 = 8;

/// Groups with their numbers of values: 14 in all.
const GROUPS: [(&str, usize); 3] = [("head/t", 1), ("stem/m", 1), ("trunk", 12)];

/// Processor time per site and round that is aimed at in one process.
const AIM: f64 = 50e-6;

/// Published figures of other systems.
const OTHERS: [(&str, f64); 2] = [("Flower", 5e-3), ("NVFlare", 38e-3)];

fn main() {
    println!("{SITES} sites, 14 parameters, processor time of all parts per site and round\n");
    let study = study(500);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let in_process = measure("in process", || {
        let work = study.sites.iter().map(|p| {
            let work: Box<dyn LocalWork> = Box::new(Nothing);
            (p.site.clone(), work)
        });
        federation::run(&study, &initial(), work.collect(), threads, &|_| ()).expect("a study");
        SITES * study.schedule.rounds
    });
    println!(
        "  aim {:.0} µs: {:+.0} %",
        AIM * 1e6,
        100.0 * (in_process / AIM - 1.0)
    );
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let over_tls = measure("over mutual TLS", || {
        let study = self::study(50);
        runtime.block_on(over_tls(&study));
        SITES * study.schedule.rounds
    });
    for (name, seconds) in OTHERS {
        println!(
            "  {name} about {:.0} ms: {:.2} of it",
            seconds * 1e3,
            over_tls / seconds
        );
    }
}

/// Runs `work`, which returns its number of site-rounds, for some seconds of processor time; prints and
/// returns the processor time of one site-round in seconds.
fn measure(name: &str, mut work: impl FnMut() -> u32) -> f64 {
    work();
    let (start, begun) = (Instant::now(), processor_time());
    let mut count = 0;
    while processor_time() - begun < 3.0 {
        count += work();
    }
    let each = (processor_time() - begun) / f64::from(count);
    let wall = start.elapsed().as_secs_f64() / f64::from(count);
    println!(
        "{name}: {:.1} µs ({count} site-rounds; {:.1} µs by the clock)",
        each * 1e6,
        wall * 1e6
    );
    each
}

/// Seconds of processor time of this process so far, all threads, user and system.
fn processor_time() -> f64 {
    /// Linux counts in hundredths of a second, whatever the processor.
    const TICKS: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").expect("the status of a Linux process");
    // After the name in brackets: the fields 14 and 15 of the whole line.
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let ticks = |index: usize| fields[index].parse::<f64>().expect("a number");
    (ticks(11) + ticks(12)) / TICKS
}

fn initial() -> ModelVector {
    let group = |(name, length): (&str, usize)| (name.parse().expect("a name"), vec![0.5; length]);
    ModelVector(GROUPS.map(group).into())
}

fn name(index: u32) -> SiteId {
    format!("site-{index}").parse().expect("a name")
}

fn study(rounds: u32) -> Study {
    Study {
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
                    group: name.parse().expect("a name"),
                    shape: vec![length],
                })
                .into(),
        },
        initial_model_sha256: initial().sha256(),
        sites: (0..SITES)
            .map(|index| Participant {
                site: name(index),
                modality: "m".parse().expect("a name"),
                task: "t".parse().expect("a name"),
                declared_patients: 10 + index,
                privacy: None,
            })
            .collect(),
        schedule: Schedule {
            rounds,
            retry_rounds: 0,
            quorum: SITES,
            deadline_seconds: 600,
        },
        training: serde_json::Value::Null,
        privacy: consilium_core::study::PrivacyMode::NoneSimulationOnly,
        aggregation: Aggregation {
            weights: WeightRule::EqualModality,
            minimum_holders: 3,
        },
    }
}

/// Training that costs nothing.
struct Nothing;

impl LocalWork for Nothing {
    fn train(
        &mut self,
        plan: &RoundPlan,
        global: &ModelVector,
        local: &ModelVector,
        _: &mut dyn FnMut(Progress),
    ) -> Result<Trained, WorkError> {
        let step = 1e-3 / plan.round as f32;
        let update = |values: &Vec<f32>| values.iter().map(|value| step * value).collect();
        Ok(Trained {
            update: ModelVector(
                global
                    .0
                    .iter()
                    .map(|(group, values)| (group.clone(), update(values)))
                    .collect(),
            ),
            local: local.clone(),
            privacy: None,
        })
    }

    fn evaluate(
        &mut self,
        _: &ModelVector,
        _: &ModelVector,
    ) -> Result<Vec<MetricValue>, WorkError> {
        Ok(Vec::new())
    }

    fn initial_local(&self) -> ModelVector {
        ModelVector(BTreeMap::new())
    }
}

/// One study with the real server and the real agents.
async fn over_tls(study: &Study) {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let folder = folder.path();
    let authority = Authority::create_with_unencrypted_key(&folder.join("certs"), "bench")
        .expect("an authority");
    let certs = folder.join("certs");
    authority
        .issue_server(&["localhost".into()], &certs)
        .expect("a certificate");
    let write = |name: &str, bytes: Vec<u8>| {
        std::fs::write(folder.join(name), bytes).expect("room on the disk");
    };
    let model = initial().to_safetensors(&study.manifest).expect("a file");
    write("initial.safetensors", model);
    write("study.json", serde_json::to_vec(study).expect("JSON"));
    let config = "listen = \"127.0.0.1:0\"\nstate = \"state\"\nstudy = \"study.json\"\n\
         initial_model = \"initial.safetensors\"\n[identity]\ncertificate = \"certs/server.pem\"\n\
         key = \"certs/server.key\"\nauthority = \"certs/authority.pem\"\n";
    write("server.toml", config.into());
    let config = ServerConfig::read(&folder.join("server.toml")).expect("a configuration");
    let server = listen::start(&config, Arc::new(SystemClock))
        .await
        .expect("a server");
    let mut sites = tokio::task::JoinSet::new();
    for participant in &study.sites {
        authority
            .issue_site(&participant.site, &certs)
            .expect("a certificate");
        let address = server.address.to_string();
        let policy = toml::to_string(&Policy::exactly(study, participant, None));
        let path = folder.join(format!("{}.policy.toml", participant.site));
        std::fs::write(&path, policy.expect("a policy")).expect("a folder");
        sites.spawn(agent(folder.to_owned(), participant.site.clone(), address));
    }
    sites.join_all().await;
    server.stop().await;
}

async fn agent(folder: PathBuf, site: SiteId, address: String) {
    let certs = folder.join("certs");
    let [certificate, key] = ["pem", "key"].map(|kind| certs.join(format!("{site}.{kind}")));
    let identity = Identity::load(&certificate, &key, Role::Site).expect("an identity");
    let witness = Witness::new(&identity, &certs.join("authority.pem")).expect("an authority");
    let tls = client_config(identity, &certs.join("authority.pem")).expect("an authority");
    let address = ServerAddress {
        address,
        name: "localhost".try_into().expect("a host name"),
        proxy: None,
    };
    let peer = GrpcServer::new(address, tls, witness, site.clone(), Duration::from_secs(20));
    let store = SiteStore::open(&folder.join(format!("{site}.sqlite")))
        .await
        .expect("a database");
    let errand = Errand {
        site: site.clone(),
        study: "bench".parse().expect("a name"),
        metrics_file: folder.join(format!("{site}.json")),
        policy: folder.join(format!("{site}.policy.toml")),
    };
    let cohort = CohortFacts {
        manifest: "cohort.toml".into(),
        origin: Origin::Simulated,
        fitted: Vec::new(),
    };
    let make: MakeWork = Box::new(|_, _| Ok(Box::new(Nothing) as Box<dyn LocalWork>));
    let work = Box::new(|| Ok((cohort, make)));
    match Agent::join(errand, store, peer, Arc::new(SystemClock), work).await {
        Ok(Joined::Agent(agent)) => drop(agent.run().await.expect("a finished study")),
        Ok(Joined::Finished(_)) => unreachable!("the folder is new"),
        Err(error) => panic!("{error}"),
    }
}
