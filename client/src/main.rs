//! `consilium-site`: the agent of one hospital.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use consilium_certs::Fingerprint;
use consilium_core::{SiteId, StudyId};
use consilium_data::Part;
use consilium_ops::{ExitCode, Format, OperatorError, output};
use consilium_site::commands;
use consilium_site::privacy::Decision;

/// The agent of one hospital: trains on its own records and sends only what the study shares.
#[derive(Parser)]
#[command(
    version = version(),
    about,
    after_help = "Example: consilium-site run --config site.toml"
)]
struct Arguments {
    /// Form of the data on standard output.
    #[arg(long, global = true, value_enum, default_value_t = Format::Text)]
    format: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Get this site's certificate: its key is made here and never leaves.
    ///
    /// Over the network: consilium-site enroll --server fl.example.org:7443 --fingerprint F --site clinic-a --dir identity
    ///
    /// By files: consilium-site enroll --request-out clinic-a.csr --site clinic-a --dir identity, and later
    /// consilium-site enroll --install clinic-a.pem --fingerprint F --site clinic-a --dir identity
    Enroll(Enroll),
    /// Take part in the study until it ends. May be killed and started again at any moment.
    ///
    /// Example: consilium-site run --config site.toml --exit-when-finished
    Run {
        #[command(flatten)]
        config: ConfigPath,
        /// End when the study has ended, instead of waiting to be stopped.
        #[arg(long)]
        exit_when_finished: bool,
    },
    /// Show where this site stands in each study, from its state folder.
    ///
    /// Example: consilium-site status --config site.toml --format json
    Status {
        #[command(flatten)]
        config: ConfigPath,
    },
    /// Take the model of a committed round home: as files, or as predictions for this site's patients.
    Model {
        #[command(subcommand)]
        command: ModelCommand,
    },
    /// What the study would send and cost, and this site's written answer to it.
    Study {
        #[command(subcommand)]
        command: StudyCommand,
    },
    /// Take patients out, who withdraw their consent say.
    Patients {
        #[command(subcommand)]
        command: PatientsCommand,
    },
    /// What this site permits, whatever the consortium asks.
    Policy {
        #[command(subcommand)]
        command: PolicyCommand,
    },
    /// The privacy ledger: what was spent of the privacy of this site's patients, and what is missing from it.
    Privacy {
        #[command(subcommand)]
        command: PrivacyCommand,
    },
    /// This site's own log, and what it has seen of the server's.
    Log {
        #[command(subcommand)]
        command: LogCommand,
    },
    /// Check clock, configuration, policy, cohort, disk, device, certificate, name, proxy, connection, whose certificate
    /// arrives, and the server, in this order; say which is broken and who can mend it.
    ///
    /// Example: consilium-site doctor --config site.toml
    Doctor {
        #[command(flatten)]
        config: ConfigPath,
    },
    /// Look at the configuration.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Check the file and everything that it names, without contacting the server.
    ///
    /// Example: consilium-site config check --config site.toml
    Check {
        #[command(flatten)]
        config: ConfigPath,
    },
}

#[derive(Subcommand)]
enum StudyCommand {
    /// Say in plain words what would leave this site, what that costs its patients, and what the policy says to it.
    ///
    /// Example: consilium-site study show --config site.toml
    Show {
        #[command(flatten)]
        config: ConfigPath,
        /// The study document as the coordinator sent it; asked of the server if left out.
        #[arg(long)]
        document: Option<PathBuf>,
    },
    /// Accept the study in writing, with the key of this site. The agent trains for no other document.
    ///
    /// Example: consilium-site study accept --config site.toml
    Accept {
        #[command(flatten)]
        config: ConfigPath,
        /// The study document as the coordinator sent it; asked of the server if left out.
        #[arg(long)]
        document: Option<PathBuf>,
    },
    /// Take the acceptance back: nothing more is trained or sent, also by a running agent.
    ///
    /// Example: consilium-site study withdraw --config site.toml --reason "decision of the ethics board"
    Withdraw {
        #[command(flatten)]
        config: ConfigPath,
        /// Why; it stays at this site.
        #[arg(long)]
        reason: String,
    },
}

#[derive(Subcommand)]
enum PatientsCommand {
    /// Take the patients whose ids stand in a file, one a line, out of all training and evaluation from the next round
    /// on. Nobody else changes parts, and no log says who.
    ///
    /// Example: consilium-site patients exclude withdrawn.txt --config site.toml
    Exclude {
        /// The file.
        file: PathBuf,
        #[command(flatten)]
        config: ConfigPath,
    },
}

#[derive(Subcommand)]
enum PolicyCommand {
    /// Check the policy file, and hold a study document against it if one is given.
    ///
    /// Example: consilium-site policy check --config site.toml --study study.json
    Check {
        #[command(flatten)]
        config: ConfigPath,
        /// A study document, as the coordinator wrote it.
        #[arg(long)]
        study: Option<PathBuf>,
    },
    /// Say in plain words what the policy permits.
    ///
    /// Example: consilium-site policy explain --config site.toml
    Explain {
        #[command(flatten)]
        config: ConfigPath,
    },
}

#[derive(Subcommand)]
enum LogCommand {
    /// Show what this site accepted, sealed and refused, and every head of the server's log that it was shown.
    ///
    /// Example: consilium-site log show --config site.toml
    Show {
        #[command(flatten)]
        config: ConfigPath,
    },
    /// Write the same with the server's signatures, for `consilium-server audit verify --site`. It holds nothing
    /// about patients.
    ///
    /// Example: consilium-site log export --config site.toml --out site-log.jsonl
    Export {
        #[command(flatten)]
        config: ConfigPath,
        /// The file; one that is there is replaced.
        #[arg(long)]
        out: PathBuf,
    },
}

#[derive(Subcommand)]
enum PrivacyCommand {
    /// Show what was spent, agreed and remains, by study and in all, with unit, adjacency, delta and accountant.
    ///
    /// Example: consilium-site privacy show --config site.toml --export ledger.json
    Show {
        #[command(flatten)]
        config: ConfigPath,
        /// Write the entries to this JSON file, and their mechanisms beside it with the ending .events.json, for
        /// `consilium privacy`.
        #[arg(long)]
        export: Option<PathBuf>,
    },
    /// Charge releases that the server has counter-signed and that are missing from this ledger, after a backup was
    /// restored, say. Each is charged as the costliest release that is known here. Cannot be taken back.
    ///
    /// Example: consilium-site privacy settle --config site.toml --releases 2 --reason "disk replaced, backup of 3 May"
    Settle {
        #[command(flatten)]
        config: ConfigPath,
        /// Releases to charge: at least those that `privacy show` says are missing.
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
        releases: u64,
        /// Why the ledger is behind; kept in it.
        #[arg(long)]
        reason: String,
        /// Say what would be charged, and write nothing.
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Subcommand)]
enum ModelCommand {
    /// Write the groups that this site received and those that stayed here as one safetensors file, with a
    /// JSON document beside it.
    ///
    /// Example: consilium-site model export --config site.toml --out models
    Export {
        #[command(flatten)]
        from: ModelChoice,
        /// A folder, or a file that ends in .safetensors. Nothing is written over.
        #[arg(long)]
        out: PathBuf,
    },
    /// Predict for the patients of this site, with uncertainty by Monte Carlo dropout. The table holds one
    /// line a record, is readable by this account only, and stays at this site.
    ///
    /// Example: consilium-site model predict --config site.toml --part test --out predictions.csv
    Predict {
        #[command(flatten)]
        from: ModelChoice,
        /// Part of this site's cohort: train, validation or test.
        #[arg(long, default_value = "test", value_parser = part)]
        part: Part,
        /// A cohort.toml with other patients; all its records are predicted. Write task.kind = "unlabelled" in
        /// it, and nothing else beside the key, where nobody knows yet.
        #[arg(long, conflicts_with = "part")]
        records: Option<PathBuf>,
        /// Dropout passes; 10 to 30 give an uncertainty, 0 is one pass without dropout.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(0..=1000))]
        passes: u16,
        /// The table; one that is there is replaced.
        #[arg(long, default_value = "predictions.csv")]
        out: PathBuf,
    },
}

/// Which model.
#[derive(clap::Args)]
struct ModelChoice {
    #[command(flatten)]
    config: ConfigPath,
    /// The study; the configured one if left out.
    #[arg(long)]
    study: Option<StudyId>,
    /// The committed round; the newest that this site has if left out.
    #[arg(long)]
    round: Option<u32>,
}

fn part(word: &str) -> Result<Part, String> {
    Part::from_word(word).ok_or_else(|| "use train, validation or test".into())
}

/// How this site enrols.
#[derive(clap::Args)]
#[group(skip)]
#[command(group(clap::ArgGroup::new("way").required(true).args(["server", "request_out", "install"])))]
struct Enroll {
    /// Name of this site in the consortium.
    #[arg(long)]
    site: SiteId,
    /// Folder for site.key, site.pem and authority.pem.
    #[arg(long)]
    dir: PathBuf,
    /// The aggregation server, host:port.
    #[arg(long, requires = "fingerprint")]
    server: Option<String>,
    /// The name in the server's certificate; the host of --server if left out.
    #[arg(long, requires = "server")]
    name: Option<String>,
    /// Fingerprint of the consortium's authority, as its operator has told it.
    #[arg(long)]
    fingerprint: Option<Fingerprint>,
    /// Write the request to this file instead, for the consortium's operator.
    #[arg(long)]
    request_out: Option<PathBuf>,
    /// Take the certificate from this file, which the consortium's operator has sent.
    #[arg(long, requires = "fingerprint")]
    install: Option<PathBuf>,
}

impl Enroll {
    fn way(self) -> Option<commands::Way> {
        Some(match (self.server, self.request_out, self.install) {
            (Some(address), ..) => commands::Way::Server {
                address,
                name: self.name,
                fingerprint: self.fingerprint?,
            },
            (_, Some(file), _) => commands::Way::RequestOut(file),
            (_, _, file) => commands::Way::Install {
                file: file?,
                fingerprint: self.fingerprint?,
            },
        })
    }
}

#[derive(clap::Args)]
struct ConfigPath {
    /// The configuration file; configs/site.toml is an annotated sample.
    #[arg(long)]
    config: PathBuf,
}

/// `0.1.0 (TLS: rustls with aws-lc-rs)`.
fn version() -> &'static str {
    let provider = consilium_certs::provider_name();
    // Once in the life of the program.
    String::leak(format!("{} (TLS: {provider})", env!("CARGO_PKG_VERSION")))
}

fn main() -> std::process::ExitCode {
    output::run(|| {
        let arguments = Arguments::parse();
        output::finish(arguments.format, run(arguments.command, arguments.format))
    })
}

fn run(command: Command, format: Format) -> Result<(), OperatorError> {
    match command {
        Command::Enroll(enroll) => {
            let (site, dir) = (enroll.site.clone(), enroll.dir.clone());
            // The command line was parsed: one of the ways is complete.
            let way = enroll.way().ok_or_else(|| {
                OperatorError::new(
                    ExitCode::Usage,
                    "usage",
                    "no way to enrol is complete",
                    "see --help",
                )
            })?;
            commands::enroll(&site, &dir, way, format)
        }
        Command::Run {
            config,
            exit_when_finished,
        } => commands::run(&config.config, exit_when_finished, format),
        Command::Status { config } => commands::status(&config.config, format),
        Command::Model {
            command: ModelCommand::Export { from, out },
        } => commands::model::export(
            &from.config.config,
            from.study.as_ref(),
            from.round,
            &out,
            format,
        ),
        Command::Model {
            command:
                ModelCommand::Predict {
                    from,
                    part,
                    records,
                    passes,
                    out,
                },
        } => {
            let wanted = commands::model::Predict {
                study: from.study,
                round: from.round,
                part,
                records,
                passes: passes.into(),
                out,
            };
            commands::model::predict(&from.config.config, &wanted, format)
        }
        Command::Study {
            command: StudyCommand::Show { config, document },
        } => commands::study::show(&config.config, document.as_deref(), format),
        Command::Study {
            command: StudyCommand::Accept { config, document },
        } => commands::study::accept(&config.config, document.as_deref(), format),
        Command::Study {
            command: StudyCommand::Withdraw { config, reason },
        } => commands::study::withdraw(&config.config, &reason, format),
        Command::Patients {
            command: PatientsCommand::Exclude { file, config },
        } => commands::patients::exclude(&config.config, &file, format),
        Command::Policy {
            command: PolicyCommand::Check { config, study },
        } => commands::policy::check(&config.config, study.as_deref(), format),
        Command::Policy {
            command: PolicyCommand::Explain { config },
        } => commands::policy::explain(&config.config, format),
        Command::Privacy {
            command: PrivacyCommand::Show { config, export },
        } => commands::privacy::show(&config.config, export.as_deref(), format),
        Command::Privacy {
            command:
                PrivacyCommand::Settle {
                    config,
                    releases,
                    reason,
                    dry_run,
                },
        } => {
            let decision = Decision { releases, reason };
            commands::privacy::settle(&config.config, &decision, dry_run, format)
        }
        Command::Log {
            command: LogCommand::Show { config },
        } => commands::log::show(&config.config, format),
        Command::Log {
            command: LogCommand::Export { config, out },
        } => commands::log::export(&config.config, &out, format),
        Command::Doctor { config } => commands::doctor(&config.config, format),
        Command::Config {
            command: ConfigCommand::Check { config },
        } => commands::check(&config.config, format),
    }
}
