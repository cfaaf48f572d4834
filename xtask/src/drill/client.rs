//! The outside client: load from its own network namespace.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use anyhow::{Context as _, anyhow};

use super::stage::GUEST_IP;
use xtask::load::client::{ClientConfig, Command, run};
use xtask::load::message::{COUNTER_PORT, DOWNLOAD_PORT};
use xtask::world::World;

/// Longest time until every worker has had its first answer.
const READY_LIMIT: Duration = Duration::from_secs(20);

/// A running client.
pub(super) struct Client<'s> {
    orders: Sender<Command>,
    thread: std::thread::ScopedJoinHandle<'s, anyhow::Result<()>>,
    pub(super) records: PathBuf,
}

impl<'s> Client<'s> {
    /// Starts the load and waits until every worker has had an answer.
    pub(super) fn start(
        scope: &'s std::thread::Scope<'s, '_>,
        world: &'s World,
        seed: u64,
    ) -> anyhow::Result<Self> {
        let records = world.root().join("records.jsonl");
        let ip: IpAddr = GUEST_IP.parse().context("the guest's address")?;
        let config = ClientConfig {
            udp_target: SocketAddr::new(ip, COUNTER_PORT),
            tcp_target: SocketAddr::new(ip, COUNTER_PORT),
            download_target: SocketAddr::new(ip, DOWNLOAD_PORT),
            records: records.clone(),
            seed,
            udp: 40,
            tcp: 4,
            download: 1,
            rate: 0,
            think: Duration::from_millis(50),
            download_rate: 2_000_000,
        };
        let (orders, commands) = channel();
        let (ready, is_ready) = channel();
        let thread = scope.spawn(move || work(world, &config, commands, ready));
        let client = Client { orders, thread, records };
        match is_ready.recv_timeout(READY_LIMIT) {
            Ok(()) => Ok(client),
            Err(_) => client
                .stop()
                .and(Err(anyhow!("the guest did not answer every worker within {READY_LIMIT:?}"))),
        }
    }

    /// Lets the client wait for what is outstanding, and end.
    pub(super) fn stop(self) -> anyhow::Result<()> {
        // A client that has ended already says why below.
        let _ = self.orders.send(Command::Stop);
        self.thread.join().map_err(|_| anyhow!("the client panicked"))?
    }
}

fn work(
    world: &World,
    config: &ClientConfig,
    commands: Receiver<Command>,
    ready: Sender<()>,
) -> anyhow::Result<()> {
    let inside = move || {
        // Whoever waits gives up by itself after a while.
        let tell = || {
            let _ = ready.send(());
        };
        run(config, &commands, tell).map_err(|error| std::io::Error::other(format!("{error:#}")))
    };
    world.in_network("client", inside)
}
