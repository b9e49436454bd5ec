//! `consilium demo`: the same federation as separate processes over mutual TLS on this machine.
//!
//! It makes a throw-away authority, starts the server and one agent per site, waits for them, runs the
//! scenario in this process as well, and fails if the two final models differ in a single bit.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use consilium_certs::Authority;
use consilium_core::{Digest, SiteId};
use consilium_ops::OperatorError;
use consilium_site::work::MetricValue;
use serde::{Deserialize, Serialize};

use crate::outcome::Outcome;
use crate::prepare::prepare;
use crate::run_folder::RunFolder;
use crate::scenario::Loaded;
use crate::simulate::{self, Options};

/// Longest start of the server.
const START: Duration = Duration::from_secs(30);

/// What a demonstration found.
#[derive(Clone, Debug, Serialize)]
pub struct Demonstration {
    /// Table of the in-process run; its federated values equal those of the deployment.
    pub outcome: Outcome,
    /// Final model of the separate processes.
    pub deployment_model_sha256: Digest,
    /// Final model of this process.
    pub in_process_model_sha256: Digest,
}

impl Demonstration {
    /// The table and both hashes.
    #[must_use]
    pub fn to_text(&self) -> String {
        format!(
            "{}deployment {}\nin process {}\nthe same bytes, and the same metrics at every site",
            self.outcome.to_text(),
            self.deployment_model_sha256,
            self.in_process_model_sha256
        )
    }
}

/// What a site leaves in its state folder.
#[derive(Deserialize)]
struct SiteResult {
    final_model_sha256: Digest,
    metrics: Vec<MetricValue>,
}

/// Runs the demonstration.
///
/// # Errors
/// [`OperatorError`]: a program that cannot be started or fails, and `demo_models_differ`.
pub fn demonstrate(loaded: &Loaded, options: &Options) -> Result<Demonstration, OperatorError> {
    loaded.must_be_simulation()?;
    RunFolder::refuse_finished(&options.out)
        .map_err(|error| OperatorError::file(&options.out, &error))?;
    let folder = options.out.join("deployment");
    let results = deploy(loaded, options, &folder)?;
    let outcome = simulate::simulate(loaded, options)?;
    let in_process = outcome.final_model_sha256;
    for (site, result) in &results {
        let here = simulate::federated_values(&options.out, site)?;
        if result.final_model_sha256 != in_process || !same(&result.metrics, &here) {
            return Err(OperatorError::failed(
                "demo_models_differ",
                format!(
                    "site {site} ended with model {}, this process with {in_process}",
                    result.final_model_sha256
                ),
                "report this: the same study must give the same bytes on one machine",
            )
            .at(folder.display()));
        }
    }
    Ok(Demonstration {
        outcome,
        // Every site was compared above, and a scenario without sites is refused.
        deployment_model_sha256: results
            .values()
            .next()
            .map_or(in_process, |result| result.final_model_sha256),
        in_process_model_sha256: in_process,
    })
}

/// Same metrics with the same values, in any order.
fn same(deployed: &[MetricValue], here: &[MetricValue]) -> bool {
    let equal = |a: &MetricValue, b: &MetricValue| {
        // The file holds decimals; reading them back gives the same number.
        a.split == b.split && a.metric == b.metric && a.value == b.value
    };
    !deployed.is_empty()
        && deployed.len() == here.len()
        && deployed.iter().all(|a| here.iter().any(|b| equal(a, b)))
}

fn deploy(
    loaded: &Loaded,
    options: &Options,
    folder: &Path,
) -> Result<BTreeMap<SiteId, SiteResult>, OperatorError> {
    let deployment = prepare(loaded, folder)?;
    let certs = deployment.certs();
    let issued = Authority::create_with_unencrypted_key(&certs, "throw-away demonstration")
        .and_then(|authority| {
            authority.issue_server(&["localhost".into()], &certs)?;
            loaded
                .scenario
                .sites
                .keys()
                .try_for_each(|site| authority.issue_site(site, &certs))
        });
    issued.map_err(|error| OperatorError::failed(error.code(), error.to_string(), error.hint()))?;
    // Thrown away: nobody can issue another certificate for this demonstration.
    let authority_key = certs.join("authority.key");
    fs::remove_file(&authority_key).map_err(|error| OperatorError::file(&authority_key, &error))?;
    let mut programs = Programs::default();
    let config = deployment.write_server("127.0.0.1:0")?;
    programs.start(
        "consilium-server",
        &["serve", "--config"],
        &config,
        folder,
        "server",
    )?;
    let port = programs.port_of_the_server()?;
    for site in deployment.cohorts.keys() {
        let address = format!("localhost:{port}");
        let config = deployment.write_site(site, &address, "1m", options.device)?;
        accept(&config, &deployment.study)?;
        programs.start(
            "consilium-site",
            &["run", "--config"],
            &config,
            folder,
            site.as_str(),
        )?;
    }
    programs.wait(loaded.study.schedule.rounds)?;
    loaded
        .scenario
        .sites
        .keys()
        .map(|site| {
            let path = deployment.state_of(site).join("metrics.json");
            let text = fs::read(&path).map_err(|error| OperatorError::file(&path, &error))?;
            let result = serde_json::from_slice(&text).map_err(|error| {
                OperatorError::failed("metrics_unreadable", error.to_string(), "")
                    .at(path.display())
            })?;
            Ok((site.clone(), result))
        })
        .collect()
}

/// Accepts the study in writing for one site, as somebody there would.
fn accept(config: &Path, study: &Path) -> Result<(), OperatorError> {
    let executable = sibling("consilium-site")?;
    let output = Command::new(&executable)
        .args(["study", "accept", "--config"])
        .arg(config)
        .arg("--document")
        .arg(study)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| OperatorError::file(&executable, &error))?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(OperatorError::failed(
        "study_not_accepted",
        words,
        "see what the site says",
    ))
}

/// The running programs. Whatever happens, none outlives this value.
#[derive(Default)]
struct Programs {
    running: Vec<Program>,
}

struct Program {
    name: String,
    child: Child,
    log: PathBuf,
    read: u64,
}

impl Programs {
    fn start(
        &mut self,
        program: &str,
        arguments: &[&str],
        config: &Path,
        folder: &Path,
        name: &str,
    ) -> Result<(), OperatorError> {
        let executable = sibling(program)?;
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log).map_err(|error| OperatorError::file(&log, &error))?;
        let child = Command::new(&executable)
            .args(arguments)
            .arg(config)
            .arg("--exit-when-finished")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .map_err(|error| OperatorError::file(&executable, &error))?;
        self.running.push(Program {
            name: name.to_owned(),
            child,
            log,
            read: 0,
        });
        Ok(())
    }

    /// The port that the system gave the server, from its log.
    fn port_of_the_server(&mut self) -> Result<u16, OperatorError> {
        let deadline = Instant::now() + START;
        let Some(server) = self.running.first_mut() else {
            return Err(OperatorError::failed(
                "program_missing",
                "the server was not started",
                "",
            ));
        };
        while Instant::now() < deadline {
            let port = server.new_lines().iter().find_map(|line| {
                let event: serde_json::Value = serde_json::from_str(line).ok()?;
                let address = event["address"].as_str()?;
                address
                    .parse::<SocketAddr>()
                    .ok()
                    .map(|address| address.port())
            });
            match (port, server.child.try_wait()) {
                (Some(port), _) => return Ok(port),
                (None, Ok(Some(status))) => return Err(server.failed(&status.to_string())),
                (None, _) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
        Err(server.failed("no address after 30 s"))
    }

    /// Waits for all; shows rounds as they close and what each site is doing.
    fn wait(&mut self, rounds: u32) -> Result<(), OperatorError> {
        let mut doing: BTreeMap<String, String> = BTreeMap::new();
        loop {
            let mut all_done = true;
            for program in &mut self.running {
                for line in program.new_lines() {
                    program.show(&line, rounds, &mut doing);
                }
                match program.child.try_wait() {
                    Ok(None) => all_done = false,
                    Ok(Some(status)) if status.success() => {}
                    Ok(Some(status)) => return Err(program.failed(&status.to_string())),
                    Err(error) => return Err(program.failed(&error.to_string())),
                }
            }
            if all_done {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Program {
    fn new_lines(&mut self) -> Vec<String> {
        let mut text = String::new();
        let read = File::open(&self.log).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.read))?;
            file.read_to_string(&mut text)
        });
        // A line that is half written, or cut inside a character, is read again next time.
        let whole = match read {
            Ok(_) => text.rfind('\n').map_or(0, |end| end + 1),
            Err(_) => 0,
        };
        self.read += whole as u64;
        text[..whole].lines().map(str::to_owned).collect()
    }

    fn show(&self, line: &str, rounds: u32, doing: &mut BTreeMap<String, String>) {
        let Ok(event) = serde_json::from_str::<serde_json::Value>(line) else {
            return;
        };
        let text = event["message"].as_str().unwrap_or_default();
        let round = event["round"].as_u64();
        if self.name == "server" {
            if text == "round closed" {
                let sites: Vec<_> = doing
                    .iter()
                    .map(|(site, what)| format!("{site} {what}"))
                    .collect();
                eprintln!(
                    "round {}/{rounds} closed; {}",
                    round.unwrap_or_default(),
                    sites.join(", ")
                );
            }
        } else if let (Some(step), Some(steps)) = (event["step"].as_u64(), event["steps"].as_u64())
        {
            doing.insert(self.name.clone(), format!("{step}/{steps}"));
        } else if matches!(text, "update sealed" | "update uploaded" | "study finished") {
            doing.insert(
                self.name.clone(),
                text.replace("update ", "").replace("study ", ""),
            );
        }
    }

    fn failed(&self, how: &str) -> OperatorError {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let last: Vec<&str> = text.lines().rev().take(3).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        OperatorError::failed(
            "program_failed",
            format!("{} ended early ({how}): {}", self.name, last.join(" / ")),
            "read the whole log",
        )
        .at(self.log.display())
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        for program in &mut self.running {
            // Fails for those that have ended already.
            let _ = program.child.kill();
            let _ = program.child.wait();
        }
    }
}

/// The other programs lie beside this one.
fn sibling(program: &str) -> Result<PathBuf, OperatorError> {
    let own = std::env::current_exe().unwrap_or_default();
    let path = own
        .with_file_name(program)
        .with_extension(std::env::consts::EXE_EXTENSION);
    if path.is_file() {
        return Ok(path);
    }
    Err(OperatorError::configuration(
        "program_missing",
        format!("{program} is not beside this program"),
        "build all programs: cargo build --workspace",
    )
    .at(path.display()))
}
