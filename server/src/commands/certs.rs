//! `consilium-server certs`: the authority, requests for its certificates, and revocation.
//!
//! The authority's folder need not be on the server's machine: every command that signs works on files alone.

mod authority;
mod requests;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use consilium_certs::{Authority, CertificateError, Passphrase};
use consilium_core::SiteId;
use consilium_ops::{Format, OperatorError};

/// What is to be done with the authority, its certificates or requests for them.
#[derive(Subcommand)]
pub enum Command {
    /// Make the consortium's authority and print its fingerprint. The folder can stay on a machine without a network.
    ///
    /// Example: consilium-server certs init --dir authority --consortium "Heart study"
    Init {
        /// The authority.
        #[command(flatten)]
        authority: AuthorityFolder,
        /// Name of the consortium.
        #[arg(long)]
        consortium: String,
        /// Store the authority's key without a passphrase: whoever reads the folder can admit sites. For a consortium
        /// that is thrown away, such as a test or a demonstration.
        #[arg(long, conflicts_with = "passphrase_file")]
        unencrypted_key_for_a_throw_away_consortium: bool,
    },
    /// Issue the server's certificate: server.pem and server.key.
    IssueServer {
        /// The authority.
        #[command(flatten)]
        authority: AuthorityFolder,
        /// Host names and addresses under which sites reach the server.
        #[arg(long = "name", required = true)]
        names: Vec<String>,
    },
    /// Replace the server's certificate by one for the same names and key and another 90 days. The running server takes it
    /// into use within seconds.
    RenewServer {
        /// The authority.
        #[command(flatten)]
        authority: AuthorityFolder,
        /// The certificate.
        #[arg(long)]
        certificate: PathBuf,
    },
    /// Make a site's key here and issue its certificate: SITE.pem and SITE.key. For tests and demonstrations: a hospital's
    /// key is made at the hospital, by `consilium-site enroll`.
    IssueSite {
        /// The authority.
        #[command(flatten)]
        authority: AuthorityFolder,
        /// The site.
        site: SiteId,
    },
    /// List the requests for certificates that wait.
    Requests {
        /// The server that holds the requests.
        #[command(flatten)]
        server: ServerFile,
    },
    /// Show a request: who, which key, for what and until when.
    Show {
        /// The request.
        #[command(flatten)]
        which: Which,
        /// Write the request to this file, to be approved on another machine.
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Sign a request for 90 days. Compare its key's fingerprint with the site before, by telephone for example.
    ///
    /// Example: consilium-server certs approve clinic-a --config server.toml --dir authority
    Approve {
        /// The request.
        #[command(flatten)]
        which: Which,
        /// Approve every renewal that waits: the present certificate vouches for each of them.
        #[arg(long, conflicts_with_all = ["request", "file"])]
        renewals: bool,
        /// The authority.
        #[command(flatten)]
        authority: AuthorityFolder,
        /// Write the certificate to this file, for `consilium-site enroll --install`.
        #[arg(long, requires = "file")]
        out: Option<PathBuf>,
    },
    /// Refuse a request; the site is told why.
    Reject {
        /// The request: the beginning of its fingerprint, or the site.
        request: String,
        /// The server that holds the requests.
        #[command(flatten)]
        server: ServerFile,
        /// Why, in words for the site.
        #[arg(long)]
        reason: String,
    },
    /// List the certificates that the authority has signed.
    Issued {
        /// Folder of the authority.
        #[arg(long)]
        dir: PathBuf,
    },
    /// Take certificates back: all valid ones of a site, or the one with a serial number. Writes authority.crl, which
    /// belongs beside the server's authority.pem; the running server takes it into use within seconds.
    Revoke {
        /// The site, or the serial number.
        target: String,
        /// The authority.
        #[command(flatten)]
        authority: AuthorityFolder,
    },
    /// Sign the list of revoked certificates anew, for another 30 days.
    Crl {
        /// The authority.
        #[command(flatten)]
        authority: AuthorityFolder,
    },
}

/// Where the authority is, and how to open it.
#[derive(Args)]
pub struct AuthorityFolder {
    /// Folder of the authority.
    #[arg(long)]
    dir: PathBuf,
    /// File whose first line is the passphrase of the authority's key; asked for on a terminal if left out.
    #[arg(long, env = "CONSILIUM_PASSPHRASE_FILE")]
    passphrase_file: Option<PathBuf>,
}

/// Whose requests.
#[derive(Args)]
pub struct ServerFile {
    /// Configuration file of the server.
    #[arg(long)]
    config: PathBuf,
}

/// A request: one that the server holds, or a file.
#[derive(Args)]
pub struct Which {
    /// A request that the server holds: the beginning of its fingerprint (8 digits at least), or the site.
    #[arg(id = "request", value_name = "REQUEST", requires = "config")]
    name: Option<String>,
    /// Configuration file of the server.
    #[arg(long)]
    config: Option<PathBuf>,
    /// A request that a site has written to a file.
    #[arg(
        id = "file",
        long = "request",
        value_name = "FILE",
        conflicts_with = "request"
    )]
    file: Option<PathBuf>,
}

/// Does it.
///
/// # Errors
/// [`OperatorError`]: exit 3 for authority, certificates and configuration, exit 1 for requests and files.
pub fn run(command: Command, format: Format) -> Result<(), OperatorError> {
    match command {
        Command::Init {
            authority,
            consortium,
            unencrypted_key_for_a_throw_away_consortium: unencrypted,
        } => authority::init(&authority, &consortium, unencrypted, format),
        Command::IssueServer { authority, names } => {
            let signer = authority.open()?;
            signer
                .issue_server(&names, &authority.dir)
                .map_err(unacceptable)
        }
        Command::RenewServer {
            authority,
            certificate,
        } => authority::renew_server(&authority, &certificate, format),
        Command::IssueSite { authority, site } => {
            let signer = authority.open()?;
            signer
                .issue_site(&site, &authority.dir)
                .map_err(unacceptable)
        }
        Command::Requests { server } => requests::list(&server.config, format),
        Command::Show { which, out } => requests::show(&which, out.as_deref(), format),
        Command::Approve {
            renewals: true,
            which,
            authority,
            ..
        } => requests::approve_renewals(&which, &authority, format),
        Command::Approve {
            which,
            authority,
            out,
            ..
        } => requests::approve(&which, &authority, out.as_deref(), format),
        Command::Reject {
            request,
            server,
            reason,
        } => requests::reject(&request, &server.config, &reason, format),
        Command::Issued { dir } => authority::issued(&dir, format),
        Command::Revoke { target, authority } => authority::revoke(&authority, &target, format),
        Command::Crl { authority } => authority::crl(&authority, format),
    }
}

impl AuthorityFolder {
    fn open(&self) -> Result<Authority, OperatorError> {
        let passphrase = if Authority::needs_passphrase(&self.dir).map_err(unacceptable)? {
            Some(self.passphrase("passphrase of the authority")?)
        } else {
            None
        };
        Authority::open(&self.dir, passphrase.as_ref()).map_err(unacceptable)
    }

    /// From the file, or from whoever sits at the terminal.
    fn passphrase(&self, question: &str) -> Result<Passphrase, OperatorError> {
        match &self.passphrase_file {
            Some(path) => {
                Passphrase::read(path).map_err(|error| unacceptable(error).at(path.display()))
            }
            None => ask(question),
        }
    }
}

/// Asks on the terminal, without showing what is typed.
fn ask(question: &str) -> Result<Passphrase, OperatorError> {
    use std::io::IsTerminal as _;
    if !std::io::stdin().is_terminal() {
        return Err(unacceptable(CertificateError::PassphraseNeeded));
    }
    let typed = rpassword::prompt_password(format!("{question}: "))
        .map_err(|error| OperatorError::file(Path::new("terminal"), &error))?;
    Passphrase::new(typed).map_err(unacceptable)
}

fn unacceptable(error: CertificateError) -> OperatorError {
    OperatorError::configuration(error.code(), error.to_string(), error.hint())
}
