//! `millrace api`: who may use the control API of `millrace up --tenants --api`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use millrace_api::{Api, Rate, Server};
use millrace_lattice_config::resolver::Address;
use millrace_lattice_config::tenants::Tenants;
use millrace_lattice_config::tokens::{Access, Token, Tokens};

use crate::audit;
use crate::installation::Certificates;
use crate::tenant::{date, open_home};
use crate::ui::Ui;

/// Work with the control API.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Tokens: who may use it.
    #[command(subcommand)]
    Token(TokenCommand),
}

/// Options of every command about the API.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// The platform's data folder, where its keys and tenants are.
    #[arg(long, env = "MILLRACE_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
}

/// Make, list and revoke tokens.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token and print it. It is kept nowhere else.
    #[command(
        after_help = "Examples:\n  millrace api token add ci --role admin\n  millrace api token add anna --role admin --tenant acme --ttl 720h"
    )]
    Add {
        /// Its name, which stands in audit logs: small letters, digits and hyphens.
        name: String,
        /// What it is for.
        #[arg(long, value_enum)]
        role: Role,
        /// The one tenant that it is for [default: all]
        #[arg(long, value_name = "TENANT")]
        tenant: Option<String>,
        /// It ends after this time.
        #[arg(long, value_name = "TIME", value_parser = millrace_platform::parse_time)]
        ttl: Option<Duration>,
        #[command(flatten)]
        options: Options,
    },
    /// Show all tokens, without their texts.
    #[command(after_help = "Example:\n  millrace api token list")]
    List {
        #[command(flatten)]
        options: Options,
    },
    /// End a token: the next call with it is refused.
    #[command(after_help = "Example:\n  millrace api token revoke ci")]
    Revoke {
        /// Its name.
        name: String,
        #[command(flatten)]
        options: Options,
    },
}

/// What a token is for: each may what those before it may.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum Role {
    /// Looking, but not at payloads of messages.
    Viewer,
    /// Running what is there.
    Operator,
    /// Making pipelines.
    Author,
    /// Tenants, their limits and credentials.
    Admin,
}

pub(crate) fn run(ui: Ui, command: Command) -> anyhow::Result<()> {
    let Command::Token(command) = command;
    match command {
        TokenCommand::Add { name, role, tenant, ttl, options } => {
            let role = match role {
                Role::Viewer => Access::Viewer,
                Role::Operator => Access::Operator,
                Role::Author => Access::Author,
                Role::Admin => Access::Admin,
            };
            let seconds = ttl.map(|ttl| i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX));
            let home = open_home(options.data)?;
            // Its record alone is looked at, and no server asked.
            let nobody = Address::plain("nats://127.0.0.1:1");
            let of = |tenant: &String| Tenants::new(home.clone(), nobody, "").get(tenant);
            let record = tenant.as_ref().map(of).transpose()?;
            let of = record.as_ref().map(|record| (record.name.as_str(), record.account.as_str()));
            let (token, text) = Tokens::new(&home).add(&name, role, of, seconds)?;
            let tenants = tenant.as_deref().unwrap_or("all tenants");
            let subject = format!("{name} {} {tenants}", role.as_str());
            if let Err(error) = audit::note_platform(&home, "token.add", &subject) {
                // It counts already, and its text would be lost.
                ui.warn(format!("it is not written down that the token was made: {error:#}"));
            }
            if ui.json {
                return ui.json(&serde_json::json!({ "about": shown(&token), "token": text }));
            }
            ui.step("shown once; `millrace api token revoke` ends it");
            ui.line(text);
        }
        TokenCommand::List { options } => {
            let all = Tokens::new(&open_home(options.data)?).list()?;
            if ui.json {
                return ui.json(&all.iter().map(shown).collect::<Vec<_>>());
            }
            for token in &all {
                let tenant = token.tenant.as_deref().unwrap_or("all tenants");
                let role = token.role.as_str();
                let end = match token.expires {
                    0 => String::new(),
                    at => format!("  until {}", date(at)),
                };
                ui.line(format!("{:<20} {role:<8}  {tenant}{end}", token.name));
            }
        }
        TokenCommand::Revoke { name, options } => {
            let home = open_home(options.data)?;
            let token = Tokens::new(&home).revoke(&name)?;
            audit::note_platform(&home, "token.revoke", &name)?;
            if ui.json {
                return ui.json(&shown(&token));
            }
            ui.line(format!("{} is revoked", token.name));
        }
    }
    Ok(())
}

/// All but its hash.
fn shown(token: &Token) -> serde_json::Value {
    serde_json::json!({
        "name": token.name, "role": token.role, "tenant": token.tenant,
        "created": token.created, "expires": token.expires,
    })
}

/// The API of an installation, at an address: plain HTTP on this machine alone, elsewhere with a certificate of the installation.
pub(crate) struct Served {
    server: Server,
    api: Api,
}

impl Served {
    /// Takes the address.
    pub(crate) async fn bind(
        address: &str,
        tenants: &Tenants,
        certificates: &Certificates,
    ) -> anyhow::Result<Self> {
        let plain = address.parse::<SocketAddr>().is_ok_and(|address| address.ip().is_loopback());
        let tls = match plain {
            true => None,
            false => Some(certificates.of_api().context("no certificate for --api")?),
        };
        let server = Server::bind(address, tls.as_ref()).await?;
        Ok(Self { server, api: Api::new(tenants.clone(), Rate::default()) })
    }

    /// Where it is.
    pub(crate) fn url(&self) -> String {
        self.server.url()
    }

    /// Answers until it is dropped.
    pub(crate) async fn serve(self) {
        self.server.serve(self.api).await;
    }
}
