//! What a call promises, over real sockets, with scripted miners.
#![expect(clippy::disallowed_methods, reason = "each test ends its own tasks")]

mod abuse;
mod books;
mod bursts;
mod capacity;
mod chat;
mod checks;
mod defects;
mod door;
mod garbage;
mod health;
mod judging;
mod keys;
mod line;
mod operator;
mod refusals;
mod reload;
mod reports;
mod secrets;
mod sessions;
mod slow;
mod strangers;
mod support;
mod tls;
mod turns;
mod unlinkable;
