//! `consilium-server`: the aggregation server and the consortium's authority.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use consilium_certs::CertificateError;
use consilium_core::clock::SystemClock;
use consilium_ops::stop::stopped;
use consilium_ops::{Format, OperatorError, logging, output};
use consilium_server::config::ServerConfig;
use consilium_server::credentials::Credentials;
use consilium_server::{commands, listen};

/// Aggregation server of a consortium. It adds vectors and never reads records.
#[derive(Parser)]
#[command(
    version = version(),
    about,
    after_help = "Example: consilium-server serve --config configs/server.toml"
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
    /// Run the study of the configuration file.
    Serve {
        /// Configuration file.
        #[arg(long)]
        config: PathBuf,
        /// End when the study has ended and every site has fetched the final model, or knows why there is
        /// none; at most one round's deadline later. Exit code 6: rounds missed their quorum.
        #[arg(long)]
        exit_when_finished: bool,
    },
    /// Check clock, configuration, study, state folder, disk, certificate, revocations and port, in this order; say which
    /// is broken. The server may be running.
    Doctor {
        /// Configuration file.
        #[arg(long)]
        config: PathBuf,
    },
    /// Check the configuration file and everything it names, and touch nothing.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// The consortium's authority: approve, renew and revoke certificates.
    #[command(subcommand)]
    Certs(commands::certs::Command),
    /// The study: where it stands, site by site.
    #[command(subcommand)]
    Study(StudyCommand),
    /// The global model.
    #[command(subcommand)]
    Model(ModelCommand),
    /// Rounds of the study: who took part, who was missing and why, how it ended.
    #[command(subcommand)]
    Round(RoundCommand),
    /// The log of everything that changes what may be learned from data, and the check that it was never
    /// rewritten.
    #[command(subcommand)]
    Audit(AuditCommand),
}

#[derive(Subcommand)]
enum AuditCommand {
    /// Write the log with all heads, counter-signatures and certificates to a file; the server may be running.
    ///
    /// Example: consilium-server audit export --config server.toml --out log.jsonl
    Export {
        /// Configuration file.
        #[arg(long)]
        config: PathBuf,
        /// File to write; it must not be there yet.
        #[arg(long)]
        out: PathBuf,
    },
    /// Check such a file on any machine, without a server. Exit code 5: the log was rewritten, or is of another
    /// consortium.
    ///
    /// Example: consilium-server audit verify log.jsonl --fingerprint 3f1c...
    Verify {
        /// What `audit export` has written.
        file: PathBuf,
        /// SHA-256 of the authority's certificate (DER), 64 hexadecimal digits, as the consortium has published it.
        #[arg(long)]
        fingerprint: consilium_core::Digest,
        /// What a site has kept of this log, as `consilium-site log export` writes it: finds a log that was cut
        /// short together with its heads, and sites that were shown different logs. May be repeated.
        #[arg(long = "site")]
        sites: Vec<PathBuf>,
    },
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Check the file and everything it names.
    Check {
        /// Configuration file.
        #[arg(long)]
        config: PathBuf,
    },
}

#[derive(Subcommand)]
enum StudyCommand {
    /// Show study, state, open round, model hash and sites; the server may be running.
    Show {
        /// Configuration file.
        #[arg(long)]
        config: PathBuf,
        /// Show it again whenever it changes, until the study has ended.
        #[arg(long)]
        watch: bool,
    },
}

#[derive(Subcommand)]
enum ModelCommand {
    /// Write the global model of the last committed round as a safetensors file.
    Export {
        /// Configuration file.
        #[arg(long)]
        config: PathBuf,
        /// File to write; it must not be there yet.
        #[arg(long)]
        out: PathBuf,
    },
}

#[derive(Subcommand)]
enum RoundCommand {
    /// List the closed rounds, and the sites that have withdrawn.
    List {
        /// Configuration file.
        #[arg(long)]
        config: PathBuf,
    },
}

/// `0.1.0 (TLS: rustls with aws-lc-rs)`.
fn version() -> &'static str {
    let provider = consilium_certs::provider_name();
    // Once in the life of the program.
    String::leak(format!("{} (TLS: {provider})", env!("CARGO_PKG_VERSION")))
}

fn main() -> ExitCode {
    output::run(|| {
        let arguments = Arguments::parse();
        logging::start();
        output::finish(arguments.format, run(arguments.command, arguments.format))
    })
}

fn run(command: Command, format: Format) -> Result<(), OperatorError> {
    match command {
        Command::Serve {
            config,
            exit_when_finished,
        } => serve(&config, exit_when_finished),
        Command::Doctor { config } => commands::doctor::doctor(&config, format),
        Command::Config(ConfigCommand::Check { config }) => check(&config, format),
        Command::Certs(command) => commands::certs::run(command, format),
        Command::Study(StudyCommand::Show { config, watch }) => match watch {
            true => commands::study::watch(&config, format),
            false => commands::study::show(&config, format),
        },
        Command::Model(ModelCommand::Export { config, out }) => {
            commands::model::export(&config, &out, format)
        }
        Command::Round(RoundCommand::List { config }) => commands::round::list(&config, format),
        Command::Audit(AuditCommand::Export { config, out }) => {
            commands::audit::export(&config, &out, format)
        }
        Command::Audit(AuditCommand::Verify {
            file,
            fingerprint,
            sites,
        }) => commands::audit::verify(&file, &sites, &fingerprint, format),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, OperatorError> {
    tokio::runtime::Runtime::new().map_err(|error| {
        OperatorError::failed(
            "runtime",
            error.to_string(),
            "check the limits of this account",
        )
    })
}

fn serve(config: &Path, exit_when_finished: bool) -> Result<(), OperatorError> {
    let config = ServerConfig::read(config)?;
    runtime()?.block_on(async {
        let stop = stopped()?;
        let running = listen::start(&config, Arc::new(SystemClock)).await?;
        let ended = tokio::select! {
            ended = running.until_finished(), if exit_when_finished => ended,
            stop = stop => stop,
        };
        running.stop().await;
        ended
    })
}

fn check(path: &Path, format: Format) -> Result<(), OperatorError> {
    let config = ServerConfig::read(path)?;
    let study = config.read_study()?;
    config.initial_model(&study)?;
    Credentials::read(&config.identity).map_err(|error| unacceptable(&error))?;
    let data = serde_json::json!({"study": study.name, "digest": study.digest(), "sites": study.sites.len()});
    output::print(format, &data, |_| {
        format!(
            "acceptable: study {}, {} sites, digest {}",
            study.name,
            study.sites.len(),
            study.digest()
        )
    });
    Ok(())
}

fn unacceptable(error: &CertificateError) -> OperatorError {
    OperatorError::configuration(error.code(), error.to_string(), error.hint())
}
