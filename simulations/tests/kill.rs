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
        let (server, site) = (program("consilium-server")?, program("consilium-site")?);
        let consilium = Path::new(env!("CARGO_BIN_EXE_consilium"));
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        run(
            consilium,
            &["study", "prepare", SCENARIO, "--out", "study"],
            at,
        );
        run(
            &server,
            &["certs", "init", "--dir", "certs", "--consortium", "test"],
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
                 state = \"{name}\"\n[server]\naddress = \"localhost:{port}\"\nname = \"localhost\"\n\
                 patience = \"2m\"\n[privacy]\nepsilon = 8.0\nallow_simulation = true\n{}",
                identity(name)
            );
            fs::write(at.join(format!("{name}.toml")), text).unwrap();
        }
        run(consilium, &["simulate", SCENARIO, "--out", "alone"], at);
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

    fn check(&self) {
        for name in SITES {
            let metrics = File::open(self.folder.path().join(name).join("metrics.json")).unwrap();
            let metrics: serde_json::Value = serde_json::from_reader(metrics).unwrap();
            assert_eq!(
                metrics["final_model_sha256"],
                self.expected.as_str(),
                "at {name}"
            );
            let shown = Command::new(&self.site)
                .args(["--format", "json", "privacy", "show", "--config"])
                .arg(format!("{name}.toml"))
                .current_dir(self.folder.path())
                .output()
                .unwrap();
            let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
            // One entry a round: a repeated upload sent the saved bytes.
            assert_eq!(shown["data"]["entries"], 2, "at {name}: {shown}");
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
    let Some(deployment) = Deployment::new() else {
        return;
    };
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
    deployment.check();
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
