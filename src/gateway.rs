//! Composition: one gateway out of its rooms. It owns every task, their order of start and
//! their order of end.

mod periods;
mod upkeep;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use taugate_ledger::period::Period;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::books::Books;
use crate::call::{CallSettings, Calls};
use crate::clock::SharedClock;
use crate::config::Config;
use crate::registry::Registry;
use crate::store::{BookRow, SqliteStore};
use crate::telemetry::Instruments;
