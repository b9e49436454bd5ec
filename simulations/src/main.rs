//! `consilium`: simulations and tools on one machine.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use consilium::errors::refused_cohort;
use consilium::scenario::Loaded;
use consilium::{cohorts, demo, evaluate, prepare, privacy, privacy_ledger, simulate, sweep};
use consilium_core::SiteId;
use consilium_core::clock::{Clock as _, SystemClock};
use consilium_models::{DeviceChoice, Version};
use consilium_ops::{Format, OperatorError, output};

/// Federated learning for hospitals, on one machine.
#[derive(Parser)]
#[command(
    version,
    about,
    after_help = "Example: consilium simulate quickstart --out runs/first"
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
    /// Run a federation in one process, with local and constant controls, and write a run folder.
    ///
    /// Example: consilium simulate simulations/real-unpaired.toml --out runs/real
    Simulate {
        /// A built-in scenario, or a scenario file.
        #[arg(default_value = "quickstart")]
        scenario: String,
        #[command(flatten)]
        run: Run,
    },
    /// Run the same federation as separate processes over mutual TLS on this machine, and compare.
    ///
    /// Example: consilium demo quickstart
    Demo {
        /// A built-in scenario, or a scenario file.
        #[arg(default_value = "quickstart")]
        scenario: String,
        #[command(flatten)]
        run: Run,
    },
    /// Compare each site's network, trained at that site alone, with the simple models of its data set on
    /// the same patient-wise folds.
    ///
    /// Example: consilium evaluate simulations/real-unpaired.toml --folds 5 --site omics-kirp
    Evaluate {
        /// A built-in scenario, or a scenario file.
        scenario: String,
        /// Number of folds.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(2..=100))]
        folds: u32,
        /// Site to evaluate; may be repeated; all when left out.
        #[arg(long)]
        site: Vec<SiteId>,
        /// Leave the test part closed: folds over the train and validation parts only, on which a recipe may
        /// be chosen.
        #[arg(long)]
        development: bool,
        /// Folds computed at a time; the processors when left out. Changes the time and nothing else.
        #[arg(long)]
        threads: Option<usize>,
        /// Where networks compute: cpu, cuda or wgpu.
        #[arg(long, default_value = "cpu")]
        device: DeviceChoice,
    },
    /// Run a scenario at several epsilons and seeds: a table and a curve of the primary metrics.
    ///
    /// Called again with the same folder, it goes on where it was.
    ///
    /// Example: consilium sweep simulations/real-unpaired.toml --epsilon 1,4,inf --seeds 3 --out runs/curve
    Sweep {
        /// A built-in scenario, or a scenario file.
        scenario: String,
        /// Epsilons of the whole study at every site, `inf` for no privacy.
        #[arg(long, value_delimiter = ',', default_value = "0.5,1,2,4,8,inf")]
        epsilon: Vec<sweep::Level>,
        /// Number of seeds, from the scenario's upwards.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
        seeds: u32,
        /// Measure on the validation part and leave the test part closed, while a recipe is chosen.
        #[arg(long)]
        development: bool,
        /// Folder of cells, table and curve.
        #[arg(long)]
        out: PathBuf,
        /// Cells computed at a time; the processors when left out. Changes the time and nothing else.
        #[arg(long)]
        threads: Option<usize>,
        /// Where networks compute: cpu, cuda or wgpu.
        #[arg(long, default_value = "cpu")]
        device: DeviceChoice,
    },
    /// Studies for separate programs.
    #[command(subcommand)]
    Study(StudyCommand),
    /// What a cohort holds, and what is wrong with it.
    #[command(subcommand)]
    Data(DataCommand),
    /// The built-in networks.
    #[command(subcommand)]
    Model(ModelCommand),
    /// What training costs in privacy, and which training meets a target.
    #[command(subcommand)]
    Privacy(PrivacyCommand),
}

#[derive(Subcommand)]
enum PrivacyCommand {
    /// Print the epsilon of a plan, or of a file of events.
    ///
    /// Example: consilium privacy epsilon --noise-multiplier 1.1 --sampling-rate 0.02 --steps 500 --delta 1e-5
    Epsilon(privacy::EpsilonArguments),
    /// Print the plan that meets a target: the one of noise, rate and steps that is left out.
    ///
    /// Example: consilium privacy calibrate --epsilon 3 --delta 1e-5 --sampling-rate 0.02 --steps 500
    Calibrate(privacy::CalibrateArguments),
    /// Check a site's exported ledger and print what it has spent, by study and in all.
    ///
    /// Example: consilium privacy ledger ledger.json --delta 1e-5
    Ledger(privacy_ledger::LedgerArguments),
}

#[derive(Subcommand)]
enum DataCommand {
    /// List the cohorts of a folder, and whether each can be used here.
    ///
    /// Example: consilium data list simulations/cohorts
    List {
        /// Folder with cohort manifests.
        #[arg(default_value = "simulations/cohorts")]
        folder: PathBuf,
    },
    /// Print what a cohort holds.
    ///
    /// Example: consilium data describe simulations/cohorts/icu-eicu.toml
    Describe {
        /// The cohort's manifest, `cohort.toml`.
        manifest: PathBuf,
    },
    /// List everything that is wrong with a cohort, with file and line; exit 3 when it would be refused.
    Check {
        /// The cohort's manifest, `cohort.toml`.
        manifest: PathBuf,
    },
}

#[derive(Subcommand)]
enum ModelCommand {
    /// List the built-in networks.
    List,
    /// Print the sizes of a network's modules, from the real modules.
    ///
    /// Example: consilium model describe ehpal-net --width 64
    Describe {
        /// Name of the network.
        name: String,
        /// Channels of the stem output: a multiple of 8, 8 to 64.
        #[arg(long, default_value_t = 64)]
        width: usize,
    },
}

#[derive(Subcommand)]
enum StudyCommand {
    /// Write study document, initial model and generated cohorts for separate programs.
    ///
    /// Example: consilium study prepare quickstart --out deployment
    Prepare {
        /// A built-in scenario, or a scenario file.
        scenario: String,
        /// Folder to write to.
        #[arg(long)]
        out: PathBuf,
    },
}

#[derive(clap::Args)]
struct Run {
    /// Run folder; `runs/<name>-<seconds since 1970>` when left out.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Sites that train at a time; the processors when left out. Changes the time and nothing else.
    #[arg(long)]
    threads: Option<usize>,
    /// Where networks compute: cpu, cuda or wgpu.
    #[arg(long, default_value = "cpu")]
    device: DeviceChoice,
}

impl Run {
    fn options(self, name: &str) -> simulate::Options {
        simulate::Options {
            out: self
                .out
                .unwrap_or_else(|| format!("runs/{name}-{}", SystemClock.now().0 / 1000).into()),
            threads: self.threads.unwrap_or_else(processors).max(1),
            device: self.device,
        }
    }
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn main() -> ExitCode {
    output::run(|| {
        let arguments = Arguments::parse();
        output::finish(arguments.format, run(arguments.command, arguments.format))
    })
}

fn run(command: Command, format: Format) -> Result<(), OperatorError> {
    match command {
        Command::Simulate { scenario, run } => {
            let loaded = Loaded::read(&scenario)?;
            let options = run.options(loaded.scenario.name.as_str());
            let outcome = simulate::simulate(&loaded, &options)?;
            output::print(format, &outcome, |outcome| {
                format!("{}run folder {}", outcome.to_text(), options.out.display())
            });
            Ok(())
        }
        Command::Demo { scenario, run } => {
            let loaded = Loaded::read(&scenario)?;
            let options = run.options(loaded.scenario.name.as_str());
            let found = demo::demonstrate(&loaded, &options)?;
            output::print(format, &found, demo::Demonstration::to_text);
            Ok(())
        }
        Command::Evaluate {
            scenario,
            folds,
            site,
            development,
            threads,
            device,
        } => {
            let loaded = Loaded::read(&scenario)?;
            let options = evaluate::Options {
                folds,
                sites: site,
                development,
                threads: threads.unwrap_or_else(processors).max(1),
                device,
            };
            let found = evaluate::evaluate(&loaded, &options)?;
            output::print(format, &found, evaluate::Evaluation::to_text);
            Ok(())
        }
        Command::Sweep {
            scenario,
            epsilon,
            seeds,
            development,
            out,
            threads,
            device,
        } => {
            let loaded = Loaded::read(&scenario)?;
            let options = sweep::Options {
                levels: epsilon,
                seeds,
                development,
                out,
                threads: threads.unwrap_or_else(processors).max(1),
                device,
            };
            let found = sweep::sweep(&loaded, &options)?;
            output::print(format, &found, |found| {
                format!("{}{}", found.to_text(), options.out.display())
            });
            Ok(())
        }
        Command::Study(StudyCommand::Prepare { scenario, out }) => {
            let loaded = Loaded::read(&scenario)?;
            let deployment = prepare::prepare(&loaded, &out)?;
            let server = deployment.write_server("127.0.0.1:7443")?;
            let sites = deployment
                .cohorts
                .keys()
                .map(|site| deployment.write_site(site, "localhost:7443", "1h", DeviceChoice::Cpu))
                .collect::<Result<Vec<_>, _>>()?;
            let data = serde_json::json!({
                "study": loaded.study.name,
                "digest": loaded.study.digest(),
                "document": deployment.study,
                "initial_model": deployment.initial_model,
                "cohorts": deployment.cohorts,
                "server_config": server,
                "site_configs": sites,
            });
            output::print(format, &data, |_| {
                format!(
                    "study {} prepared in {}: server.toml, and a .toml for each of {} sites\n\
                     certificates belong in {}: see `consilium-server certs --help`",
                    loaded.study.name,
                    out.display(),
                    loaded.study.sites.len(),
                    deployment.certs().display()
                )
            });
            Ok(())
        }
        Command::Data(DataCommand::List { folder }) => {
            let found = cohorts::list(&folder)?;
            output::print(format, &found, |found| cohorts::to_text(found));
            Ok(())
        }
        Command::Data(DataCommand::Describe { manifest }) => {
            let cohort = consilium_data::Cohort::read(&manifest).map_err(refused_cohort)?;
            let description = consilium_data::describe(&cohort);
            output::print(format, &description, ToString::to_string);
            Ok(())
        }
        Command::Data(DataCommand::Check { manifest }) => {
            let findings = consilium_data::check(&manifest);
            let errors = findings
                .iter()
                .filter(|f| f.severity == consilium_data::Severity::Error)
                .count();
            // One document on standard output: in JSON, findings that refuse the cohort are in the error.
            if errors == 0 || format == Format::Text {
                output::print(format, &findings, |findings| {
                    let lines: Vec<_> = findings.iter().map(ToString::to_string).collect();
                    if lines.is_empty() {
                        "nothing is wrong".into()
                    } else {
                        lines.join("\n")
                    }
                });
            }
            if errors == 0 {
                return Ok(());
            }
            Err(OperatorError::configuration(
                "cohort_refused",
                format!("{errors} errors"),
                "correct the cohort; nothing was written",
            )
            .with_details(&findings)
            .at(manifest.display()))
        }
        Command::Privacy(PrivacyCommand::Epsilon(arguments)) => {
            output::print(
                format,
                &privacy::epsilon(&arguments)?,
                privacy::Cost::to_text,
            );
            Ok(())
        }
        Command::Privacy(PrivacyCommand::Calibrate(arguments)) => {
            let found = privacy::calibrate(&arguments)?;
            output::print(format, &found, privacy::Calibration::to_text);
            Ok(())
        }
        Command::Privacy(PrivacyCommand::Ledger(arguments)) => {
            let audited = privacy_ledger::ledger(&arguments)?;
            output::print(format, &audited, privacy_ledger::Audited::to_text);
            Ok(())
        }
        Command::Model(ModelCommand::List) => {
            output::print(format, &["ehpal-net"], |names| names.join("\n"));
            Ok(())
        }
        Command::Model(ModelCommand::Describe { name, width }) => {
            describe_model(&name, width, format)
        }
    }
}

/// The published network, four 128x128x3 inputs, in both versions of its heads.
fn describe_model(name: &str, width: usize, format: Format) -> Result<(), OperatorError> {
    if name != "ehpal-net" {
        return Err(OperatorError::configuration(
            "model_unknown",
            format!("there is no network {name:?}"),
            "see `consilium model list`",
        ));
    }
    let describe = |version| {
        consilium_models::describe(width, 128, version)
            .map_err(|error| OperatorError::configuration(error.code(), error.to_string(), ""))
    };
    let both = [describe(Version::V1)?, describe(Version::V2)?];
    output::print(format, &both, |[first, second]| {
        format!(
            "Heads 5, 7, 2, 2\n{}\nHeads 5, 7, 1 (survival), 2\n{}",
            first.to_text(),
            second.to_text()
        )
    });
    Ok(())
}
