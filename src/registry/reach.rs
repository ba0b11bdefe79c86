//! Which addresses miners may name. A declared endpoint is whatever a miner wrote: the
//! gateway's machine, its network and the services of its cloud are not for it to reach.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Services that clouds put beside each machine, with secrets in them; some of them at
/// addresses that look public or like a company's own.
const CLOUD: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

/// Whether a miner may be at an address; `private`: also on this machine and in networks
/// that are not public.
#[must_use]
pub fn may_be_at(address: IpAddr, private: bool) -> bool {
    let address = plain(address);
    if CLOUD.contains(&address) || is_nobodys(address) {
        return false;
    }
    private || is_public(address)
}

/// The address that is meant: IPv6 has several ways to name one of IPv4.
fn plain(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address.to_canonical() else {
        return address.to_canonical();
    };
    let [a, b, c, d, e, f, g, h] = v6.segments();
    let low = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match [a, b, c, d, e, f] {
        // NAT64, and addresses that are "compatible".
        [0x64, 0xff9b, 0, 0, 0, 0] => low(g, h),
        [0, 0, 0, 0, 0, 0] if (g, h) != (0, 0) && (g, h) != (0, 1) => low(g, h),
        // 6to4.
        [0x2002, high, rest, ..] => low(high, rest),
        _ => IpAddr::V6(v6),
    }
}

/// Addresses that are no one machine's, or only the next one's on the wire.
fn is_nobodys(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [first, ..] = v4.octets();
            first == 0 || first >= 224 || v4.is_link_local()
        }
        IpAddr::V6(v6) => v6.is_unspecified() || v6.is_multicast() || v6.is_unicast_link_local(),
    }
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            // Shared by carriers, protocols' own, benchmarks'.
            let shared = (a == 100 && (64..128).contains(&b))
                || (a, b, c) == (192, 0, 0)
                || (a == 198 && (18..20).contains(&b));
            !(v4.is_private() || v4.is_loopback() || v4.is_documentation() || shared)
        }
        IpAddr::V6(v6) => {
            let [a, b, ..] = v6.segments();
            // All of the public ones are in 2000::/3; of these, protocols' own (tunnels among
            // them) and documentation are none.
            a & 0xe000 == 0x2000 && !(a == 0x2001 && (b < 0x200 || b == 0xdb8))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(texts: &[&str], private: bool) -> Vec<bool> {
        let parsed = texts.iter().map(|text| text.parse().unwrap());
        parsed.map(|address| may_be_at(address, private)).collect()
    }

    #[test]
    fn case_13_only_public_addresses_unless_private_ones_are_allowed() {
        let public = [
            "1.1.1.1",
            "93.184.216.34",
            "2606:4700::1111",
            "::ffff:1.1.1.1",
        ];
        assert_eq!(all(&public, false), [true; 4]);
        let private = [
            "127.0.0.1",
            "127.9.9.9",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.0.1",
            "100.64.0.1",
            "198.18.0.1",
            "192.0.2.1",
            "::1",
            "fc00::1",
            "fd12:3456::1",
            "2001:db8::1",
            "2001::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::10.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a00:1",
            "2002:7f00:1::",
            "2002:a00:1::1",
        ];
        assert_eq!(all(&private, false), [false; 21]);
        assert_eq!(all(&private, true), [true; 21]);
        let never = [
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "169.254.1.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "168.63.129.16",
            "100.100.100.200",
            "::",
            "fe80::1",
            "ff02::1",
            "fd00:ec2::254",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::",
        ];
        assert_eq!(all(&never, true), [false; 16]);
    }
}
