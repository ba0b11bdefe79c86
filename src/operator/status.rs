//! `taugate status`: miners and tasks as a running gateway has them, asked of its admin
//! listener. The table is for people; `--json` hands on what the gateway said.

mod detail;
mod screen;
mod sort;
mod table;

use std::io::{IsTerminal as _, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use http::StatusCode;
use serde::de::DeserializeOwned;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::admin::status::{Detail, Overview};
use crate::config::Config;

use self::screen::Screen;
use self::sort::Sort;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A gateway on the same machine answers in milliseconds.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// What `taugate status` takes.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Ends with 0 when it was told, 1 when the gateway could not tell, 2 when an \
                  argument was wrong or means no miner, 4 when no gateway answers, 64 when the \
                  configuration is wrong."
)]
pub struct StatusArgs {
    /// The configuration file of the gateway, which names its admin listener
    #[arg(long, short, env = "TAUGATE_CONFIG")]
    config: Option<PathBuf>,
    /// The admin listener of the gateway, HOST:PORT, in place of the configuration's
    #[arg(long, value_name = "ADDRESS", env = "TAUGATE_ADMIN")]
    admin: Option<String>,
    /// Sort each task's miners by a column; with a minus, the largest first
    #[arg(long, value_name = "COLUMN", allow_hyphen_values = true)]
    sort: Option<Sort>,
    /// All of one miner: its hotkey, or enough of it
    #[arg(long, value_name = "HOTKEY")]
    miner: Option<String>,
    /// Look again each second, until Ctrl-C
    #[arg(long)]
    watch: bool,
    /// Print JSON: what the gateway said, nothing shortened; with --watch an object a line
    #[arg(long)]
    json: bool,
}

/// Why nothing was told.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// The address is malformed.
    #[error("{0} is no address of an admin listener: HOST:PORT, without TLS")]
    Address(String),
    /// Nobody answers.
    #[error(
        "no gateway answers at {address}: {}; is it running, and is that its admin listener \
         (listen.admin)?",
        root(.source)
    )]
    Away {
        /// Where.
        address: String,
        /// Why.
        source: reqwest::Error,
    },
    /// Somebody answers, but not as an admin listener does.
    #[error(
        "no admin listener of a gateway speaks at {address} ({what}); it is another port than \
         those of clients and miners: listen.admin, 9464 unless configured"
    )]
    Stranger {
        /// Where.
        address: String,
        /// What came.
        what: String,
    },
    /// The gateway could not tell.
    #[error("the gateway could not tell: {0}")]
    Refused(String),
    /// No miner is meant.
    #[error("no miner's hotkey begins with {0}; `taugate status --json` lists them")]
    NoMiner(String),
    /// More than one miner is meant.
    #[error("{1} miners' hotkeys begin with {0}; give more of it")]
    ManyMiners(String, usize),
    /// As JSON.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// The terminal.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// The gateway that is asked.
#[derive(Debug)]
pub(super) struct Asked {
    address: String,
    client: reqwest::Client,
}

/// What was told.
#[derive(Debug)]
enum Told {
    All(Box<Overview>),
    One(Box<Detail>),
}

// === impl StatusError ===

impl StatusError {
    /// The command's exit code.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Refused(_) | Self::Json(_) | Self::Io(_) => 1,
            Self::Address(_) | Self::NoMiner(_) | Self::ManyMiners(..) => 2,
            Self::Away { .. } | Self::Stranger { .. } => 4,
        }
    }

    /// Whether it only means that a reader has seen enough (`| head`).
    #[must_use]
    pub fn is_enough(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == std::io::ErrorKind::BrokenPipe)
    }

    /// Whether another look may find more: who follows a gateway outlives its restart.
    const fn may_pass(&self) -> bool {
        matches!(self, Self::Away { .. } | Self::Refused(_))
    }
}

/// The last cause, which says what the others only frame.
fn root(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

// === impl StatusArgs ===

impl StatusArgs {
    /// Where to ask: `load` reads the configuration when no address is given.
    ///
    /// # Errors
    /// As `load`.
    pub fn address(
        &self,
        load: impl FnOnce(Option<&PathBuf>) -> Result<Config, ExitCode>,
    ) -> Result<String, ExitCode> {
        match &self.admin {
            Some(address) => Ok(address.clone()),
            None => Ok(reached(load(self.config.as_ref())?.listen.admin).to_string()),
        }
    }
}

/// Where a listener is reached from its own machine.
pub(super) fn reached(listener: SocketAddr) -> SocketAddr {
    let mut reached = listener;
    if listener.ip().is_unspecified() {
        reached.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    reached
}

/// Tells, once or each second until `stop`.
///
/// # Errors
/// See [`StatusError`].
pub async fn run(
    args: &StatusArgs,
    address: &str,
    stop: CancellationToken,
    out: &mut (impl Write + Send),
) -> Result<(), StatusError> {
    let asked = Asked::new(address)?;
    if !args.watch {
        let looked = stop.run_until_cancelled(asked.look(args)).await;
        return looked.map_or(Ok(()), |told| print(&told?, args, out));
    }
    let mut screen = Screen::new(!args.json && std::io::stdout().is_terminal());
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = false;
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        let Some(looked) = stop.run_until_cancelled(asked.look(args)).await else {
            break;
        };
        let text = match looked {
            Ok(told) if args.json => told.json(false)?,
            Ok(told) => told.text(args),
            // Without a first look it is more likely a slip of the keyboard.
            Err(error) if seen && error.may_pass() => {
                screen.remark(&error.to_string());
                continue;
            }
            Err(error) => return Err(error),
        };
        seen = true;
        screen.show(&text, out)?;
    }
    screen.end();
    Ok(())
}

fn print(told: &Told, args: &StatusArgs, out: &mut impl Write) -> Result<(), StatusError> {
    let text = if args.json {
        told.json(true)?
    } else {
        told.text(args)
    };
    Ok(writeln!(out, "{text}")?)
}

// === impl Asked ===

impl Asked {
    pub(super) fn new(address: &str) -> Result<Self, StatusError> {
        let malformed = || StatusError::Address(address.to_owned());
        let bare = address.strip_prefix("http://").unwrap_or(address);
        let bare = bare.trim_end_matches('/');
        let authority: http::uri::Authority = bare.parse().map_err(|_| malformed())?;
        let named = !authority.host().is_empty() && authority.port_u16().is_some();
        if !named || bare.contains('@') {
            return Err(malformed());
        }
        // A proxy of the surroundings knows nothing of this machine.
        let client = reqwest::Client::builder().no_proxy().timeout(ANSWER_MAX);
        let client = client.build().map_err(|_| malformed())?;
        let address = bare.to_owned();
        Ok(Self { address, client })
    }

    async fn look(&self, args: &StatusArgs) -> Result<Told, StatusError> {
        let Some(meant) = &args.miner else {
            return Ok(Told::All(Box::new(self.get(Overview::PATH).await?)));
        };
        let hotkey = if meant.parse::<crate::identity::hotkey::Hotkey>().is_ok() {
            meant.clone()
        } else {
            let overview: Overview = self.get(Overview::PATH).await?;
            meant_miner(meant, &overview)?
        };
        let path = format!("{}{hotkey}", Detail::PATH);
        match self.get(&path).await {
            Ok(detail) => Ok(Told::One(Box::new(detail))),
            // The path is right, so it is the miner that is not there.
            Err(StatusError::Stranger { .. }) => Err(StatusError::NoMiner(meant.clone())),
            Err(error) => Err(error),
        }
    }

    /// What is told at a path.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, StatusError> {
        let url = format!("http://{}{path}", self.address);
        let answered = self.client.get(url).send().await;
        let answer = answered.map_err(|source| self.failed(source))?;
        let status = answer.status();
        let text = answer.text().await.map_err(|source| self.failed(source))?;
        if status.is_success() {
            return serde_json::from_str(&text)
                .map_err(|error| self.stranger(&format!("no status: {error}")));
        }
        let told: Option<serde_json::Value> = serde_json::from_str(&text).ok();
        let why = told.as_ref().and_then(|told| told["error"].as_str());
        match why {
            Some(why) if status.is_server_error() || status == StatusCode::BAD_REQUEST => {
                Err(StatusError::Refused(why.to_owned()))
            }
            _ => Err(self.stranger(&status.to_string())),
        }
    }

    /// Nobody was reached, or who was reached does not speak HTTP as we do.
    fn failed(&self, source: reqwest::Error) -> StatusError {
        if source.is_connect() || source.is_timeout() {
            let address = self.address.clone();
            return StatusError::Away { address, source };
        }
        self.stranger(&root(&source))
    }

    fn stranger(&self, what: &str) -> StatusError {
        StatusError::Stranger {
            address: self.address.clone(),
            what: what.to_owned(),
        }
    }
}

/// The one miner whose hotkey begins so, or is shortened to that in the table.
fn meant_miner(meant: &str, overview: &Overview) -> Result<String, StatusError> {
    let mut found: Vec<&str> = overview
        .cells
        .iter()
        .map(|row| row.miner.as_str())
        .filter(|miner| miner.starts_with(meant) || table::short(miner) == meant)
        .collect();
    found.sort_unstable();
    found.dedup();
    match found[..] {
        [] => Err(StatusError::NoMiner(meant.to_owned())),
        [miner] => Ok(miner.to_owned()),
        _ => Err(StatusError::ManyMiners(meant.to_owned(), found.len())),
    }
}

// === impl Told ===

impl Told {
    /// As JSON, on one line unless it is to be read.
    fn json(&self, to_be_read: bool) -> Result<String, serde_json::Error> {
        match (self, to_be_read) {
            (Self::All(overview), false) => serde_json::to_string(overview),
            (Self::All(overview), true) => serde_json::to_string_pretty(overview),
            (Self::One(detail), false) => serde_json::to_string(detail),
            (Self::One(detail), true) => serde_json::to_string_pretty(detail),
        }
    }

    fn text(&self, args: &StatusArgs) -> String {
        match self {
            Self::All(overview) => table::text(overview, args.sort),
            Self::One(detail) => detail::text(detail),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use table::tests::{MINERS, overview, row};

    #[test]
    fn a_miner_is_meant_by_its_beginning_or_as_the_table_shows_it() {
        let cells = [MINERS[0], MINERS[0], MINERS[1]].map(|miner| row(miner, "tiny"));
        let told = overview(cells.to_vec());
        let meant = |text: &str| meant_miner(text, &told).map_err(|error| error.to_string());
        assert_eq!(meant("5Grwva"), Ok(MINERS[0].to_owned()));
        assert_eq!(meant("5FHn…94ty"), Ok(MINERS[1].to_owned()));
        let many = meant("5").unwrap_err();
        assert!(many.starts_with("2 miners' hotkeys begin with 5"), "{many}");
        assert!(meant("6").unwrap_err().starts_with("no miner"));
    }

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for good in ["127.0.0.1:9464", "http://localhost:9464/", "[::1]:9464"] {
            assert!(Asked::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "127.0.0.1",
            ":9464",
            "https://a:1",
            "a:1/b",
            "u@a:1",
            "a b:1",
        ] {
            let refused = Asked::new(bad).unwrap_err();
            assert_eq!(refused.exit_code(), 2, "{bad}");
        }
    }

    #[test]
    fn a_listener_on_all_addresses_is_reached_on_this_machine() {
        let at = |text: &str| reached(text.parse().unwrap()).to_string();
        assert_eq!(at("0.0.0.0:9464"), "127.0.0.1:9464");
        assert_eq!(at("10.0.0.3:9464"), "10.0.0.3:9464");
    }
}
