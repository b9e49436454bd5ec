//! Real server, real sites: from no certificate to a finished study, and what a certificate that is no longer good leads to.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use consilium_certs::{Authority, Passphrase, Peer, Validity, read_certificates, write_private};
use serde_json::Value;

const SITES: [&str; 3] = ["icu-a", "icu-b", "icu-c"];
const SCENARIO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/small.toml");
const PHRASE: &str = "correct horse battery staple";

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

/// A process with its log and its answer; killed when the test ends in any way.
struct Process {
    child: Child,
    log: PathBuf,
    answer: PathBuf,
}

impl Process {
    /// Reads its log again and again until `found` gives something.
    fn until<T>(&self, what: &str, found: impl Fn(&str) -> Option<T>) -> T {
        until(what, || found(&self.text()))
    }

    fn says(&self, text: &str) {
        self.until(text, |log| log.contains(text).then_some(()));
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Exit code and error code.
    fn end(mut self) -> (i32, String) {
        let status = until("its end", || self.child.try_wait().unwrap());
        let answer = fs::read(&self.answer).unwrap_or_default();
        let answer: Value = serde_json::from_slice(&answer).unwrap_or_default();
        let code = answer["error"]["code"].as_str().unwrap_or("none");
        (status.code().unwrap_or(-1), code.to_owned())
    }

    fn ends_well(self) {
        let log = self.log.clone();
        let ended = self.end();
        let log = fs::read_to_string(log).unwrap_or_default();
        assert_eq!(ended, (0, "none".into()), "{log}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} never came");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A consortium whose authority is known by its fingerprint, and no site is enrolled.
struct Consortium {
    folder: tempfile::TempDir,
    server: PathBuf,
    site: PathBuf,
    fingerprint: String,
    port: u16,
}

impl Consortium {
    fn new() -> Option<Self> {
        let (server, site) = (program("consilium-server")?, program("consilium-site")?);
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        write_private(&at.join("phrase"), PHRASE).unwrap();
        let prepared = Command::new(env!("CARGO_BIN_EXE_consilium"))
            .args(["study", "prepare", SCENARIO, "--out", "study"])
            .current_dir(at)
            .status();
        assert!(prepared.unwrap().success());
        // Taken and given back: nobody else is given it so soon.
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let mut consortium = Self {
            server,
            site,
            port,
            fingerprint: String::new(),
            folder,
        };
        let init = ["init", "--consortium", "test", "--dir", "authority"];
        let made = consortium.certs(&init).unwrap();
        consortium.fingerprint = made["fingerprint"].as_str().unwrap().to_owned();
        let issue = ["issue-server", "--dir", "authority", "--name", "localhost"];
        consortium.certs(&issue).unwrap();
        let text = format!(
            "listen = \"127.0.0.1:{port}\"\nstate = \"server\"\nstudy = \"study/study.json\"\n\
             initial_model = \"study/initial.safetensors\"\n[identity]\n\
             certificate = \"authority/server.pem\"\nkey = \"authority/server.key\"\n\
             authority = \"authority/authority.pem\"\n"
        );
        fs::write(consortium.at("server.toml"), text).unwrap();
        for name in SITES {
            let text = format!(
                "site = \"{name}\"\nstudy = \"small\"\ncohort = \"study/cohorts/{name}/cohort.toml\"\n\
                 state = \"state-{name}\"\npolicy = \"study/policies/{name}.toml\"\n[server]\naddress = \"localhost:{port}\"\nname = \"localhost\"\n\
                 patience = \"1m\"\n[identity]\ncertificate = \"{name}/site.pem\"\nkey = \"{name}/site.key\"\n\
                 authority = \"{name}/authority.pem\"\n"
            );
            fs::write(consortium.at(&format!("{name}.toml")), text).unwrap();
        }
        Some(consortium)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Data or error code of `consilium-server certs`.
    fn certs(&self, arguments: &[&str]) -> Result<Value, String> {
        self.told(&self.server, &[&["certs"], arguments].concat())
    }

    fn told(&self, program: &Path, arguments: &[&str]) -> Result<Value, String> {
        let output = Command::new(program)
            .args(["--format", "json"])
            .args(arguments)
            .env("CONSILIUM_PASSPHRASE_FILE", "phrase")
            .current_dir(self.folder.path())
            .output()
            .unwrap();
        let json: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        if output.status.success() {
            return Ok(json["data"].clone());
        }
        let log = String::from_utf8_lossy(&output.stderr);
        Err(format!(
            "{}\n{log}",
            json["error"]["code"].as_str().unwrap_or_default()
        ))
    }

    fn start(&self, program: &Path, arguments: &[&str], name: &str) -> Process {
        let (log, answer) = (
            self.at(&format!("{name}.log")),
            self.at(&format!("{name}.json")),
        );
        let open = |path: &Path| {
            OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .unwrap()
        };
        fs::write(&answer, "").unwrap();
        let child = Command::new(program)
            .args(["--format", "json"])
            .args(arguments)
            .current_dir(self.folder.path())
            .env("RUST_LOG", "info")
            .stdout(open(&answer))
            .stderr(open(&log))
            .spawn()
            .unwrap();
        Process { child, log, answer }
    }

    /// How many entries of a kind the server's log has.
    fn logged(&self, kind: &str) -> usize {
        let export = self.at("log.jsonl");
        let _ = fs::remove_file(&export);
        let words = [
            "audit",
            "export",
            "--config",
            "server.toml",
            "--out",
            "log.jsonl",
        ];
        let output = Command::new(&self.server)
            .args(words)
            .current_dir(self.folder.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = fs::read_to_string(&export).unwrap();
        text.matches(&format!("\\\"kind\\\":\\\"{kind}\\\""))
            .count()
    }

    fn serve(&self) -> Process {
        let serve = ["serve", "--config", "server.toml", "--exit-when-finished"];
        let server = self.start(&self.server, &serve, "server");
        server.says("\"message\":\"listening\"");
        server
    }

    fn run(&self, site: &str) -> Process {
        let config = format!("{site}.toml");
        let accept = [
            "study",
            "accept",
            "--config",
            &config,
            "--document",
            "study/study.json",
        ];
        let accepted = Command::new(&self.site)
            .args(accept)
            .current_dir(self.folder.path())
            .output();
        accepted.unwrap();
        let run = ["run", "--config", &config, "--exit-when-finished"];
        self.start(&self.site, &run, site)
    }

    fn enroll(&self, site: &str, folder: &str) -> Process {
        let server = format!("localhost:{}", self.port);
        let enroll = [
            "enroll",
            "--server",
            &server,
            "--fingerprint",
            &self.fingerprint,
            "--site",
            site,
            "--dir",
            folder,
        ];
        self.start(&self.site, &enroll, &format!("enroll-{folder}"))
    }

    fn requests(&self) -> Vec<Value> {
        let listed = self.certs(&["requests", "--config", "server.toml"]);
        listed.unwrap().as_array().unwrap().clone()
    }

    fn approve(&self, which: &str) -> Result<Value, String> {
        let config = ["--config", "server.toml", "--dir", "authority"];
        self.certs(&[&["approve", which], &config[..]].concat())
    }

    fn authority(&self) -> Authority {
        let phrase = Passphrase::new(PHRASE.into()).unwrap();
        Authority::open(&self.at("authority"), Some(&phrase)).unwrap()
    }

    /// Certificates without the way to them, of these lives in seconds.
    fn issue(&self, lives: [i64; 3]) {
        let authority = self.authority();
        for (name, seconds) in SITES.into_iter().zip(lives) {
            let (folder, life) = (self.at(name), Validity::seconds_for_tests(seconds));
            let site = name.parse().unwrap();
            authority.issue_site_for(&site, &folder, life).unwrap();
            for kind in ["pem", "key"] {
                let issued = folder.join(format!("{name}.{kind}"));
                fs::rename(issued, folder.join(format!("site.{kind}"))).unwrap();
            }
            fs::copy(authority.certificate(), folder.join("authority.pem")).unwrap();
            self.accept(name);
        }
    }

    /// Signed with the site's key, so once it has a certificate.
    fn accept(&self, site: &str) {
        let config = format!("{site}.toml");
        let accept = ["study", "accept", "--config", &config, "--document"];
        let accept = [&accept[..], &["study/study.json"]].concat();
        self.told(&self.site, &accept).unwrap();
    }

    fn certificate(&self, site: &str) -> Peer {
        let path = self.at(site).join("site.pem");
        Peer::of(&read_certificates(&path).unwrap()[0]).unwrap()
    }
}

#[test]
fn sites_enrol_over_the_network_are_approved_and_take_part_to_the_end() {
    let Some(consortium) = Consortium::new() else {
        return;
    };
    let server = consortium.serve();
    let mut enrolling = SITES.map(|name| consortium.enroll(name, name));
    let stranger = consortium.enroll("icu-d", "icu-d");
    for process in &enrolling {
        process.says("waits for approval");
    }
    stranger.says("waits for approval");
    // Killed and started again: the same key, and still one request.
    enrolling[1].kill();
    enrolling[1] = consortium.enroll("icu-b", "icu-b");
    enrolling[1].until("the second question", |log| {
        (log.matches("waits for approval").count() == 2).then_some(())
    });
    let requests = consortium.requests();
    assert_eq!(requests.len(), 4, "{requests:?}");
    for (name, process) in SITES.iter().zip(&enrolling) {
        let request = requests.iter().find(|request| request["site"] == *name);
        let request = request.unwrap();
        assert_eq!(
            (&request["role"], &request["valid_days"]),
            (&"site".into(), &90.into())
        );
        // What the site reads aloud is what the operator sees.
        assert!(process.text().contains(request["spoken"].as_str().unwrap()));
        let shown = consortium.certs(&["show", name, "--config", "server.toml"]);
        assert_eq!(shown.unwrap()["key"], request["key"]);
        let issued = consortium.approve(name).unwrap();
        assert_eq!(issued[0]["key"], request["key"]);
    }
    let reject = [
        "reject",
        "icu-d",
        "--reason",
        "not a member",
        "--config",
        "server.toml",
    ];
    consortium.certs(&reject).unwrap();
    let log = stranger.log.clone();
    assert_eq!(stranger.end(), (5, "enrolment_rejected".into()));
    assert!(fs::read_to_string(log).unwrap().contains("not a member"));
    enrolling.into_iter().for_each(Process::ends_well);
    assert_eq!(consortium.requests(), Vec::<Value>::new());
    for name in SITES {
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let key = consortium.at(name).join("site.key");
            assert_eq!(
                fs::metadata(key).unwrap().permissions().mode() & 0o777,
                0o600
            );
        }
        // Once more does no harm.
        consortium.enroll(name, name).ends_well();
    }
    // Who was let in is in the log, once each, with the request that was rejected.
    until("all members in the log", || {
        let found =
            ["enrolment_requested", "enrolment_approved"].map(|kind| consortium.logged(kind));
        (found == [4, 3]).then_some(())
    });
    let running = SITES.map(|name| {
        consortium.accept(name);
        consortium.run(name)
    });
    running.into_iter().for_each(Process::ends_well);
    server.ends_well();
}

#[test]
fn a_site_does_not_enrol_with_a_server_that_it_cannot_recognise() {
    let Some(consortium) = Consortium::new() else {
        return;
    };
    let server = consortium.serve();
    let address = format!("localhost:{}", consortium.port);
    let with = |fingerprint: &str, name: &str| {
        let enroll = [
            "enroll", "--site", "icu-a", "--dir", "icu-a", "--server", &address,
        ];
        let known = ["--fingerprint", fingerprint, "--name", name];
        consortium
            .start(&consortium.site, &[&enroll[..], &known].concat(), "enroll")
            .end()
    };
    let other = "0".repeat(64);
    assert_eq!(
        with(&other, "localhost"),
        (4, "authority_fingerprint".into())
    );
    let right = &consortium.fingerprint;
    let wrong_name = (4, "server_certificate_wrong_name".into());
    assert_eq!(with(right, "elsewhere.example.org"), wrong_name);
    assert_eq!(consortium.requests(), Vec::<Value>::new());
    assert!(!consortium.at("icu-a/authority.pem").exists());
    drop(server);
}

#[test]
fn a_site_enrols_by_files_alone() {
    let Some(consortium) = Consortium::new() else {
        return;
    };
    let site = |arguments: &[&str]| {
        let which = ["--site", "icu-a", "--dir", "icu-a"];
        consortium.told(
            &consortium.site,
            &[&["enroll"], &which[..], arguments].concat(),
        )
    };
    let requested = site(&["--request-out", "a.csr"]).unwrap();
    let files = ["--request", "a.csr", "--out", "a.pem", "--dir", "authority"];
    let issued = consortium
        .certs(&[&["approve"], &files[..]].concat())
        .unwrap();
    assert_eq!(issued[0]["key"], requested["key"]);
    let other = site(&["--install", "a.pem", "--fingerprint", &"0".repeat(64)]);
    assert!(
        other
            .unwrap_err()
            .starts_with("certificate_other_authority")
    );
    let enrolled = site(&[
        "--install",
        "a.pem",
        "--fingerprint",
        &consortium.fingerprint,
    ]);
    assert_eq!(enrolled.unwrap()["state"], "enrolled");
    let check = ["config", "check", "--config", "icu-a.toml"];
    consortium.told(&consortium.site, &check).unwrap();
    // The certificate of another site's request is not taken.
    let which = ["--site", "icu-b", "--dir", "icu-b", "--fingerprint"];
    let install = [&consortium.fingerprint, "--install", "a.pem"];
    let taken = [&["enroll"], &which[..], &install].concat();
    let refused = consortium.told(&consortium.site, &taken).unwrap_err();
    assert!(
        refused.starts_with("certificate_not_requested"),
        "{refused}"
    );
}

#[test]
fn a_revoked_site_reads_that_it_is_revoked_and_an_expired_one_that_it_has_expired() {
    let Some(consortium) = Consortium::new() else {
        return;
    };
    let server = consortium.serve();
    consortium.issue([3600, 3600, 12]);
    let revoked = consortium.run("icu-a");
    let expiring = consortium.run("icu-c");
    revoked.says("update uploaded");
    let began = Instant::now();
    consortium
        .certs(&["revoke", "icu-a", "--dir", "authority"])
        .unwrap();
    let log = revoked.log.clone();
    assert_eq!(revoked.end(), (4, "certificate_revoked".into()));
    // The call that waited on an open connection was ended, and not after a round.
    assert!(began.elapsed() < Duration::from_secs(15));
    assert!(
        fs::read_to_string(log)
            .unwrap()
            .contains("certificate of icu-a was revoked")
    );
    // Nobody approves this one's renewal.
    expiring.says("waits for the consortium's approval");
    assert_eq!(expiring.end(), (4, "certificate_expired".into()));
    let refused = |site: &str, code: &str| {
        let line = |line: &str| {
            line.contains("\"refused\"")
                && line.contains(&format!("\"site\":\"{site}\""))
                && line.contains(&format!("\"error.code\":\"{code}\""))
        };
        assert!(server.text().lines().any(line), "{}", server.text());
    };
    refused("icu-a", "certificate_revoked");
    refused("icu-c", "certificate_expired");
    // Who was let out is in the log that nobody can rewrite.
    until("the revocation in the log", || {
        (consortium.logged("certificate_revoked") == 1).then_some(())
    });
    // Started again, both are told before anything is sent.
    assert_eq!(
        consortium.run("icu-a").end(),
        (4, "certificate_revoked".into())
    );
    assert_eq!(
        consortium.run("icu-c").end(),
        (3, "certificate_expired".into())
    );
}

#[test]
fn a_running_agent_renews_its_certificate_and_goes_on_past_the_end_of_the_old_one() {
    let Some(consortium) = Consortium::new() else {
        return;
    };
    let server = consortium.serve();
    consortium.issue([15, 3600, 3600]);
    let old = consortium.certificate("icu-a");
    let agent = consortium.run("icu-a");
    agent.says("update uploaded");
    agent.says("waits for the consortium's approval");
    let [request] = &consortium.requests()[..] else {
        panic!("{:?}", consortium.requests());
    };
    assert_eq!(request["kind"], "renewal");
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() as i64;
    assert!(
        now >= old.renewal(),
        "renewed before two thirds of its life"
    );
    assert_eq!(
        consortium.approve("--renewals").unwrap()[0]["name"],
        "icu-a"
    );
    agent.says("certificate renewed");
    let new = consortium.certificate("icu-a");
    assert_eq!(
        (&new.name, &new.role, new.key),
        (&old.name, &old.role, old.key)
    );
    assert_ne!(new.serial, old.serial);
    until("the end of the old certificate", || {
        old.expect_valid_now().err()
    });
    // The same process trains the second round.
    let others = ["icu-b", "icu-c"].map(|name| consortium.run(name));
    others.into_iter().for_each(Process::ends_well);
    agent.ends_well();
    assert!(
        !server.text().contains("certificate_expired"),
        "{}",
        server.text()
    );
    server.ends_well();
}
