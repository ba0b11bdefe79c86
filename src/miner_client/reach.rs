//! How a connection to a miner is made. A name is resolved once, each address that comes of it
//! is looked at, and the connection goes to one that was: what the name says afterwards
//! changes nothing. Nothing redirects, and no proxy is asked.

use std::fmt::Debug;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use taugate_ledger::engine::BoxFuture;
use tokio::net::TcpStream;

use crate::identity::tls::ClientTls;
use crate::registry::reach::may_be_at;

/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;

/// Where miners may be, and how they are spoken to.
#[derive(Clone, Debug)]
pub struct Reach {
    /// Whether they may be on this machine and in networks that are not public.
    pub private: bool,
    /// Where this gateway itself listens: no miner is there.
    pub own: Vec<SocketAddr>,
    /// Speaks TLS to those that declared https; `None`: they are not reached.
    pub tls: Option<ClientTls>,
    /// Resolves and connects.
    pub network: Arc<dyn Network>,
}

/// The part of a network that a connection needs.
pub trait Network: Debug + Send + Sync {
    /// The addresses of a name, or of an address in text.
    fn resolve<'a>(
        &'a self,
        host: &'a str,
        port: u16,
    ) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>>;

    /// A connection to an address.
    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<TcpStream>>;
}

/// The operating system's.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemNetwork;

// === impl Reach ===

impl Reach {
    /// On this machine and everywhere, without TLS. For development.
    #[must_use]
    pub fn anywhere() -> Self {
        Self {
            private: true,
            own: Vec::new(),
            tls: None,
            network: Arc::new(SystemNetwork),
        }
    }

    /// A connection to one of a host's addresses that a miner may be at.
    ///
    /// # Errors
    /// When there is none, or none answers.
    pub(super) async fn connect(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let resolved = self.network.resolve(host, port).await?;
        let allowed = resolved.into_iter().filter(|address| self.allows(address));
        let mut last = io::Error::other("no miner may be at this address");
        for address in allowed.take(ADDRESSES_MAX) {
            match self.network.connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn allows(&self, address: &SocketAddr) -> bool {
        let is_own = self.own.iter().any(|own| {
            // A listener of all addresses is also at each of this machine's.
            let here = own.ip() == address.ip() || own.ip().is_unspecified() && is_local(address);
            here && own.port() == address.port()
        });
        !is_own && may_be_at(address.ip(), self.private)
    }
}

fn is_local(address: &SocketAddr) -> bool {
    let ip: IpAddr = address.ip().to_canonical();
    ip.is_loopback()
}

// === impl SystemNetwork ===

impl Network for SystemNetwork {
    fn resolve<'a>(
        &'a self,
        host: &'a str,
        port: u16,
    ) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
    }

    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<TcpStream>> {
        Box::pin(TcpStream::connect(address))
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    /// Says something else each time, and connects to nothing.
    #[derive(Debug, Default)]
    struct Rebinding {
        says: Mutex<Vec<Vec<&'static str>>>,
        asked: Mutex<Vec<SocketAddr>>,
    }

    impl Network for Rebinding {
        fn resolve<'a>(
            &'a self,
            _: &'a str,
            port: u16,
        ) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
            let said = self.says.lock().pop().unwrap_or_default();
            let addresses = said
                .into_iter()
                .map(|ip| (ip.parse::<IpAddr>().unwrap(), port).into());
            Box::pin(std::future::ready(Ok(addresses.collect())))
        }

        fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<TcpStream>> {
            self.asked.lock().push(address);
            Box::pin(std::future::ready(Err(io::Error::other("nobody"))))
        }
    }

    async fn asked(private: bool, own: &[&str], says: &[&'static str]) -> Vec<String> {
        let network = Arc::new(Rebinding::default());
        // What it says when it is asked again.
        network.says.lock().push(vec!["127.0.0.1"]);
        network.says.lock().push(says.to_vec());
        let reach = Reach {
            private,
            own: own.iter().map(|own| own.parse().unwrap()).collect(),
            tls: None,
            network: Arc::clone(&network) as Arc<dyn Network>,
        };
        reach.connect("miner.example", 50061).await.unwrap_err();
        assert_eq!(network.says.lock().len(), 1, "it is resolved once");
        let asked = network.asked.lock();
        asked.iter().map(SocketAddr::to_string).collect()
    }

    #[tokio::test]
    async fn case_13_a_name_is_resolved_once_and_only_checked_addresses_are_connected_to() {
        // The metadata address, loopback, a pod: no SYN to any of them.
        let hostile = ["169.254.169.254", "127.0.0.1", "10.0.0.7", "::1", "fd00::1"];
        assert!(asked(false, &[], &hostile).await.is_empty());
        let mixed = ["10.0.0.7", "93.184.216.34", "::ffff:127.0.0.1"];
        assert_eq!(asked(false, &[], &mixed).await, ["93.184.216.34:50061"]);
        let allowed = asked(true, &[], &["10.0.0.7", "169.254.169.254"]).await;
        assert_eq!(allowed, ["10.0.0.7:50061"]);
    }

    #[tokio::test]
    async fn case_13_a_gateway_does_not_call_itself() {
        let own = ["203.0.113.5:50061", "0.0.0.0:50061"];
        let says = ["127.0.0.1", "::ffff:127.0.0.1", "203.0.113.5"];
        assert!(asked(true, &own, &says).await.is_empty());
        assert_eq!(asked(true, &["0.0.0.0:1"], &says).await.len(), 3);
    }

    #[tokio::test]
    async fn case_13_a_host_that_only_looks_odd_is_an_address_all_the_same() {
        let reach = Reach {
            private: false,
            ..Reach::anywhere()
        };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        listener.set_nonblocking(true).unwrap();
        for host in [
            "localhost",
            "127.0.0.1",
            "127.1",
            "2130706433",
            "0x7f000001",
        ] {
            assert!(reach.connect(host, port).await.is_err(), "{host}");
        }
        let nobody = listener.accept().map(drop).unwrap_err();
        assert_eq!(nobody.kind(), io::ErrorKind::WouldBlock, "no SYN came");
        assert!(Reach::anywhere().connect("localhost", port).await.is_ok());
    }
}
