//! Real processes over real TLS, killed in the middle of a study in private steps: always the model of the
//! undisturbed run, and a ledger that counts every round once.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

const SITES: [&str; 3] = ["icu-a", "icu-b", "icu-c"];
const SCENARIO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/small.toml");

/// The other programs, which `cargo test --workspace` builds beside this package's.
fn program(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_BIN_EXE_consilium")).with_file_name(name);
    if path.is_file() {
        return Some(path);
    }
    // Straight to the descriptor: the test harness keeps what passing tests print to itself.
    let _ = writeln!(
        std::io::stderr(),
        "skipped: {name} is not built; run `cargo test --workspace`"
    );
    None
}

fn run(program: &Path, arguments: &[&str], folder: &Path) {
    let status = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .status()
        .unwrap();
    assert!(status.success(), "{arguments:?}");
}

/// A process with its log; killed when the test ends in any way.
struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    fn start(program: &Path, command: &str, name: &str, folder: &Path) -> Self {
        let log = folder.join(format!("{name}.log"));
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap();
        let child = Command::new(program)
            .args([
                command,
                "--config",
                &format!("{name}.toml"),
                "--exit-when-finished",
            ])
            .current_dir(folder)
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .unwrap();
        Self { child, log }
    }

    /// SIGKILL as soon as the log has `count` lines with this text.
    fn kill_at(&mut self, text: &str, count: usize) {
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            if log.matches(text).count() >= count {
                self.child.kill().unwrap();
                self.child.wait().unwrap();
                return;
            }
            assert!(Instant::now() < deadline, "{text:?} never came:\n{log}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn end(mut self) {
        let deadline = Instant::now() + Duration::from_secs(180);
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                let log = fs::read_to_string(&self.log).unwrap_or_default();
                assert!(status.success(), "{status}:\n{log}");
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!(
            "did not end: {}",
            fs::read_to_string(&self.log).unwrap_or_default()
        );
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that the system gives to nobody else, so that the server can come back on it: outside the range
/// from which ports are handed out (32768 and up).
fn own_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let offset = (std::process::id() % 500) as u16 * 20 + NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 20_000 + offset % 10_000;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

struct Deployment {
    folder: tempfile::TempDir,
    server: PathBuf,
    site: PathBuf,
    expected: String,
}

impl Deployment {
    fn new() -> Option<Self> {
        Self::of(fs::read_to_string(SCENARIO).unwrap())
    }

    /// The same with noise from the operating system, and nothing fitted on patients.
    fn real() -> Option<Self> {
        let text = fs::read_to_string(SCENARIO).unwrap();
        let real = text
            .replace(
                "epsilon = 8.0",
                "epsilon = 8.0\nrandomness = \"operating-system\"",
            )
            .replace("test = 20 }", "test = 20, public_constants = true }");
        assert_eq!(real.matches("public_constants").count(), SITES.len());
        Self::of(real)
    }

    fn of(scenario: String) -> Option<Self> {
        let (server, site) = (program("consilium-server")?, program("consilium-site")?);
        let consilium = Path::new(env!("CARGO_BIN_EXE_consilium"));
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        fs::write(at.join("small.toml"), &scenario).unwrap();
        run(
            consilium,
            &["study", "prepare", "small.toml", "--out", "study"],
            at,
        );
        run(
            &server,
            &[
                "certs",
                "init",
                "--dir",
                "certs",
                "--consortium",
                "test",
                "--unencrypted-key-for-a-throw-away-consortium",
            ],
            at,
        );
        run(
            &server,
            &[
                "certs",
                "issue-server",
                "--dir",
                "certs",
                "--name",
                "localhost",
            ],
            at,
        );
        let port = own_port();
        let identity = |name: &str| {
            format!(
                "[identity]\ncertificate = \"certs/{name}.pem\"\nkey = \"certs/{name}.key\"\n\
                 authority = \"certs/authority.pem\"\n"
            )
        };
        let text = format!(
            "listen = \"127.0.0.1:{port}\"\nstate = \"server\"\nstudy = \"study/study.json\"\n\
             initial_model = \"study/initial.safetensors\"\n{}",
            identity("server")
        );
        fs::write(at.join("server.toml"), text).unwrap();
        for name in SITES {
            run(
                &server,
                &["certs", "issue-site", "--dir", "certs", name],
                at,
            );
            let text = format!(
                "site = \"{name}\"\nstudy = \"small\"\ncohort = \"study/cohorts/{name}/cohort.toml\"\n\
                 state = \"{name}\"\npolicy = \"study/policies/{name}.toml\"\n[server]\naddress = \"localhost:{port}\"\nname = \"localhost\"\n\
                 patience = \"2m\"\n{}",
                identity(name)
            );
            let config = format!("{name}.toml");
            fs::write(at.join(&config), text).unwrap();
            let accept = ["study", "accept", "--config", &config, "--document"];
            run(&site, &[&accept[..], &["study/study.json"]].concat(), at);
        }
        // What a simulation of the same study ends in.
        let seeded = scenario.replace("randomness = \"operating-system\"", "");
        fs::write(at.join("small.toml"), seeded).unwrap();
        run(consilium, &["simulate", "small.toml", "--out", "alone"], at);
        let manifest = File::open(at.join("alone/manifest.json")).unwrap();
        let manifest: serde_json::Value = serde_json::from_reader(manifest).unwrap();
        let expected = manifest["final_model_sha256"].as_str().unwrap().to_owned();
        Some(Self {
            folder,
            server,
            site,
            expected,
        })
    }

    fn start_server(&self) -> Process {
        Process::start(&self.server, "serve", "server", self.folder.path())
    }

    fn start_site(&self, name: &str) -> Process {
        Process::start(&self.site, "run", name, self.folder.path())
    }

    /// The model that a site ended with.
    fn model(&self, name: &str) -> String {
        let metrics = File::open(self.folder.path().join(name).join("metrics.json")).unwrap();
        let metrics: serde_json::Value = serde_json::from_reader(metrics).unwrap();
        metrics["final_model_sha256"].as_str().unwrap().to_owned()
    }

    /// What a site says that it has spent.
    fn spent(&self, name: &str) -> serde_json::Value {
        let shown = Command::new(&self.site)
            .args(["--format", "json", "privacy", "show", "--config"])
            .arg(format!("{name}.toml"))
            .current_dir(self.folder.path())
            .output()
            .unwrap();
        let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
        shown["data"].clone()
    }

    fn check(&self) {
        for name in SITES {
            assert_eq!(self.model(name), self.expected, "at {name}");
            // One entry a round: a repeated upload sent the saved bytes.
            let spent = self.spent(name);
            assert_eq!(spent["entries"], 2, "at {name}: {spent}");
            assert_eq!(spent["total"]["stamp"], "simulation");
            assert_eq!(
                spent["total"]["conditional"],
                "conditional on preprocessing"
            );
        }
    }

    /// A study whose noise nobody can repeat: one model at every site, that of no simulation, and one entry a round.
    fn check_real(&self) {
        for name in SITES {
            assert_eq!(self.model(name), self.model(SITES[0]));
            assert_ne!(self.model(name), self.expected);
            let spent = self.spent(name);
            assert_eq!(spent["entries"], 2, "at {name}: {spent}");
            assert!(spent["total"]["stamp"].is_null(), "{spent}");
            assert!(spent["total"]["conditional"].is_null(), "{spent}");
            assert_eq!(
                spent["total"]["noise_levels"],
                serde_json::json!(["hardened"])
            );
            assert!(spent["total"]["spent"].as_f64().unwrap() > 0.0);
        }
    }
}

fn kill_the_server_at(text: &str, count: usize) {
    let Some(deployment) = Deployment::new() else {
        return;
    };
    let mut server = deployment.start_server();
    let sites = SITES.map(|name| deployment.start_site(name));
    server.kill_at(text, count);
    let server = deployment.start_server();
    sites.into_iter().for_each(Process::end);
    server.end();
    deployment.check();
}

fn kill_a_site_at(text: &str, count: usize) {
    if let Some(deployment) = Deployment::new() {
        kill_a_site_of(&deployment, text, count);
        deployment.check();
    }
}

fn kill_a_site_of(deployment: &Deployment, text: &str, count: usize) {
    let server = deployment.start_server();
    let others = [
        deployment.start_site("icu-a"),
        deployment.start_site("icu-c"),
    ];
    let mut site = deployment.start_site("icu-b");
    site.kill_at(text, count);
    deployment.start_site("icu-b").end();
    others.into_iter().for_each(Process::end);
    server.end();
}

#[test]
fn a_server_killed_after_opening_a_round_ends_in_the_same_model() {
    kill_the_server_at("round opened", 1);
}

#[test]
fn a_server_killed_after_the_first_update_ends_in_the_same_model() {
    kill_the_server_at("update stored", 1);
}

#[test]
fn a_server_killed_while_it_sums_ends_in_the_same_model() {
    kill_the_server_at("aggregating", 1);
}

#[test]
fn a_site_killed_after_it_received_a_round_ends_in_the_same_model() {
    kill_a_site_at("round received", 1);
}

#[test]
fn a_site_killed_after_it_sealed_its_update_ends_in_the_same_model() {
    kill_a_site_at("update sealed", 1);
}

#[test]
fn a_site_killed_after_it_delivered_its_update_ends_in_the_same_model() {
    kill_a_site_at("update uploaded", 1);
}

#[test]
fn a_site_killed_in_a_real_study_sends_what_it_sealed_and_draws_anew_what_it_had_not() {
    for text in ["update sealed", "round received"] {
        let Some(deployment) = Deployment::real() else {
            return;
        };
        kill_a_site_of(&deployment, text, 1);
        deployment.check_real();
    }
}
