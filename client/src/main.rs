//! `consilium-site`: the agent of one hospital.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use consilium_ops::{Format, OperatorError, output};
use consilium_site::commands;

/// The agent of one hospital: trains on its own records and sends only what the study shares.
#[derive(Parser)]
#[command(
    version,
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

#[derive(clap::Args)]
struct ConfigPath {
    /// The configuration file; configs/site.toml is an annotated sample.
    #[arg(long)]
    config: PathBuf,
}

fn main() -> ExitCode {
    output::run(|| {
        let arguments = Arguments::parse();
        output::finish(arguments.format, run(arguments.command, arguments.format))
    })
}

fn run(command: Command, format: Format) -> Result<(), OperatorError> {
    match command {
        Command::Run {
            config,
            exit_when_finished,
        } => commands::run(&config.config, exit_when_finished, format),
        Command::Status { config } => commands::status(&config.config, format),
        Command::Config {
            command: ConfigCommand::Check { config },
        } => commands::check(&config.config, format),
    }
}
