//! A network of our own: each host in a network namespace, with one link to the servers, which can be cut or be slow.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::ensure;

use crate::plant::host_name;
use crate::sandbox::{self, run};

/// Where the hosts find NATS and Kafka. It is ours alone: nothing leaves this network.
const SERVERS: Ipv4Addr = Ipv4Addr::new(10, 83, 0, 1);

/// Where `ip` keeps the names of namespaces.
const NAMES: &str = "/run/netns";

/// The name of its link on a host.
const UP: &str = "uplink";

/// A token bucket: less than what the plant sends at its usual rate, and a queue of nearly half a second.
const SLOW: [&str; 7] = ["tbf", "rate", "1mbit", "burst", "32kbit", "latency", "400ms"];

/// The links of the hosts.
#[derive(Debug)]
pub(crate) struct Network {
    hosts: usize,
    can_slow: bool,
}

impl Network {
    /// Makes the namespaces and links.
    pub(crate) fn start(hosts: usize) -> anyhow::Result<Self> {
        ensure!(sandbox::is_entered(), "this process has no network of its own");
        std::fs::create_dir_all(NAMES)?;
        // The names are to vanish with this process as well.
        run("mount", ["-t", "tmpfs", "millrace-chaos", NAMES])?;
        ip("link set lo up")?;
        ip(&format!("address add {SERVERS}/32 dev lo"))?;
        for host in 0..hosts {
            let (name, net) = (host_name(host), format!("10.83.{}", host + 1));
            ip(&format!("netns add {name}"))?;
            ip(&format!("link add {name} type veth peer name {UP} netns {name}"))?;
            ip(&format!("address add {net}.1/30 dev {name}"))?;
            ip(&format!("link set {name} up"))?;
            ip(&format!("-n {name} address add {net}.2/30 dev {UP}"))?;
            ip(&format!("-n {name} link set {UP} up"))?;
            ip(&format!("-n {name} link set lo up"))?;
            ip(&format!("-n {name} route add default via {net}.1"))?;
        }
        // Not every kernel has the queue for it.
        let mut network = Self { hosts, can_slow: false };
        let tried = network.slow(0, true).and_then(|()| network.slow(0, false));
        if let Err(error) = &tried {
            crate::progress(format_args!("the fault `slow-link` is left out: {error:#}"));
        }
        network.can_slow = tried.is_ok();
        Ok(network)
    }

    /// Whether links can be slowed here.
    pub(crate) const fn can_slow(&self) -> bool {
        self.can_slow
    }

    /// The address of the servers, for everybody.
    pub(crate) const fn servers() -> IpAddr {
        IpAddr::V4(SERVERS)
    }

    /// What starts a program on a host.
    pub(crate) fn way(host: usize) -> Vec<OsString> {
        ["ip", "netns", "exec", &host_name(host)].map(OsString::from).into()
    }

    /// Cuts the link of a host, or mends it.
    pub(crate) fn cut(&self, host: usize, cut: bool) -> anyhow::Result<()> {
        self.has(host)?;
        ip(&format!("link set {} {}", host_name(host), if cut { "down" } else { "up" }))
    }

    /// Slows the link of a host in both directions, or gives it back its speed.
    pub(crate) fn slow(&self, host: usize, slow: bool) -> anyhow::Result<()> {
        self.has(host)?;
        let name = host_name(host);
        let tc = |link: &str| {
            let verb = if slow { "replace" } else { "del" };
            let rest: &[&str] = if slow { &SLOW } else { &[] };
            [&["tc", "qdisc", verb, "dev", link, "root"], rest].concat().join(" ")
        };
        sh(&tc(&name))?;
        sh(&format!("ip netns exec {name} {}", tc(UP)))
    }

    fn has(&self, host: usize) -> anyhow::Result<()> {
        ensure!(host < self.hosts, "there is no host {host}");
        Ok(())
    }
}

fn ip(arguments: &str) -> anyhow::Result<()> {
    run("ip", arguments.split(' '))
}

fn sh(command: &str) -> anyhow::Result<()> {
    let mut words = command.split(' ');
    run(words.next().unwrap_or_default(), words)
}
