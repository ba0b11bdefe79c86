//! The HTTP client of a model server: what is configured is what is asked.

use std::time::Duration;

use reqwest::redirect::Policy;

/// The longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(3);

/// A client that follows no redirect and asks no proxy: prompts go to the server that was
/// named, and to no other.
pub(super) fn client() -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder()
        .connect_timeout(CONNECT)
        .tcp_nodelay(true)
        .redirect(Policy::none())
        .no_proxy()
        .build()
}
