//! Apache Kafka: one process that is broker and controller (KRaft).

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tempfile::TempDir;

use crate::kafka_certificates::Certificates;
use crate::process::{Program, tools};
use crate::{PeerError, free_port};

const JAVA: Program = Program {
    name: "java",
    variable: "MILLRACE_JAVA",
    install: "apt-get install openjdk-17-jre-headless, or `scripts/setup kafka`",
};

/// How long a broker may take until it takes clients, on a machine that is busy
/// compiling.
const PATIENCE: Duration = Duration::from_secs(120);

/// Name and password that every broker knows, with SCRAM and PLAIN.
pub const KAFKA_USER: (&str, &str) = ("press", "s3cret-of-the-press");

/// How a broker is to be started, where it differs from the default.
#[derive(Debug, Clone, Default)]
pub struct KafkaOptions {
    /// Lines for `server.properties`.
    pub properties: String,
    /// Folder for its log, instead of one of its own: a small file system.
    pub log_dir: Option<PathBuf>,
    /// Address that clients without TLS or log-in know it by. It listens for them on all of the machine's then, and not on
    /// the loopback address alone.
    pub address: Option<IpAddr>,
}

/// A broker on free ports, with a store of its own.
///
/// It listens without anything, with TLS, with TLS and certificates of clients,
/// with TLS and SASL, and with SASL alone.
#[derive(Debug)]
pub struct Kafka {
    ports: Ports,
    folder: TempDir,
    certificates: Certificates,
    options: KafkaOptions,
    running: Option<Java>,
}

#[derive(Debug, Clone, Copy)]
struct Ports {
    plain: u16,
    tls: u16,
    mutual: u16,
    sasl_tls: u16,
    sasl: u16,
    controller: u16,
}

impl Kafka {
    /// Starts a broker.
    ///
    /// # Errors
    ///
    /// When Kafka or Java is missing, or does not start.
    pub fn start() -> Result<Self, PeerError> {
        Self::start_with(KafkaOptions::default())
    }

    /// Starts a broker with options.
    ///
    /// # Errors
    ///
    /// When Kafka or Java is missing, or does not start.
    pub fn start_with(options: KafkaOptions) -> Result<Self, PeerError> {
        let folder = TempDir::with_prefix("millrace-kafka-")?;
        let ports = Ports {
            plain: free_port()?,
            tls: free_port()?,
            mutual: free_port()?,
            sasl_tls: free_port()?,
            sasl: free_port()?,
            controller: free_port()?,
        };
        let certificates = Certificates::make(folder.path())?;
        let mut kafka = Self { ports, folder, certificates, options, running: None };
        fs::write(kafka.properties(), kafka.configuration())?;
        kafka.format()?;
        kafka.restart()?;
        Ok(kafka)
    }

    /// Address without TLS or log-in.
    #[must_use]
    pub fn brokers(&self) -> String {
        format!("{}:{}", self.plain_address(), self.ports.plain)
    }

    fn plain_address(&self) -> IpAddr {
        self.options.address.unwrap_or(Ipv4Addr::LOCALHOST.into())
    }

    /// Address with TLS.
    #[must_use]
    pub fn brokers_tls(&self) -> String {
        format!("localhost:{}", self.ports.tls)
    }

    /// Address with TLS where a client needs a certificate.
    #[must_use]
    pub fn brokers_mutual_tls(&self) -> String {
        format!("localhost:{}", self.ports.mutual)
    }

    /// Address with TLS, by a name that is not in the certificate.
    #[must_use]
    pub fn brokers_tls_other_name(&self) -> String {
        format!("127.0.0.1:{}", self.ports.tls)
    }

    /// Address with TLS and SASL: SCRAM-SHA-256, SCRAM-SHA-512, PLAIN and
    /// OAUTHBEARER with tokens that nobody has signed.
    #[must_use]
    pub fn brokers_sasl_tls(&self) -> String {
        format!("localhost:{}", self.ports.sasl_tls)
    }

    /// Address with SASL alone.
    #[must_use]
    pub fn brokers_sasl(&self) -> String {
        format!("127.0.0.1:{}", self.ports.sasl)
    }

    /// Certificates and keys for its clients, good and bad.
    #[must_use]
    pub const fn certificates(&self) -> &Certificates {
        &self.certificates
    }

    /// Gives the broker another certificate, from its next start on.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn use_server_certificate(&self, pem: &str) -> io::Result<()> {
        fs::write(self.folder.path().join("server.pem"), pem)
    }

    /// Lets this user in as well, with PLAIN on the listener with SASL alone,
    /// from its next start on.
    ///
    /// # Errors
    ///
    /// When the configuration cannot be written.
    pub fn add_user(&mut self, user: &str, password: &str) -> io::Result<()> {
        let (own, secret) = KAFKA_USER;
        // Of a property that is there twice the last counts.
        self.options.properties.push_str(&format!(
            "listener.name.sasl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.\
             PlainLoginModule required username=\"{own}\" password=\"{secret}\" \
             user_{own}=\"{secret}\" user_{user}=\"{password}\";\n"
        ));
        fs::write(self.properties(), self.configuration())
    }

    /// Kills it (kill -9). What the operating system has of its log stays.
    ///
    /// # Errors
    ///
    /// When the operating system refuses.
    pub fn kill(&mut self) -> io::Result<()> {
        self.running.take().map_or(Ok(()), |java| java.end(Signal::KILL))
    }

    /// Ends it in order.
    ///
    /// # Errors
    ///
    /// When the operating system refuses.
    pub fn stop(&mut self) -> io::Result<()> {
        self.running.take().map_or(Ok(()), |java| java.end(Signal::TERM))
    }

    /// Stops it from answering, or lets it go on.
    ///
    /// # Errors
    ///
    /// When the operating system refuses.
    pub fn freeze(&self, freeze: bool) -> io::Result<()> {
        let signal = if freeze { Signal::STOP } else { Signal::CONT };
        self.running.as_ref().map_or(Ok(()), |java| java.signal(signal))
    }

    /// Starts it again on the same ports and store, after ending one that runs.
    ///
    /// # Errors
    ///
    /// When it does not start.
    pub fn restart(&mut self) -> Result<(), PeerError> {
        self.stop()?;
        let properties = self.properties();
        let args = ["kafka.Kafka".as_ref(), properties.as_os_str()];
        let java = Java::start(self.folder.path(), args)?;
        // The plain listener opens last but for the log-in of clients.
        let listening = || {
            [
                self.ports.plain,
                self.ports.tls,
                self.ports.mutual,
                self.ports.sasl_tls,
                self.ports.sasl,
            ]
            .iter()
            .all(|port| TcpStream::connect((Ipv4Addr::LOCALHOST, *port)).is_ok())
        };
        let start = Instant::now();
        while !listening() {
            if !java.lives() || start.elapsed() > PATIENCE {
                let reason = format!("does not listen\n{}", self.log());
                return Err(PeerError::NotStarted { program: "kafka", reason });
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        self.running = Some(java);
        Ok(())
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Its process, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().and_then(|java| u32::try_from(java.pid.as_raw_nonzero().get()).ok())
    }

    fn properties(&self) -> PathBuf {
        self.folder.path().join("server.properties")
    }

    /// Gives the store its identity and its users.
    fn format(&self) -> Result<(), PeerError> {
        let (user, password) = KAFKA_USER;
        let mut command = java()?;
        command.args(["kafka.tools.StorageTool", "format", "--standalone"]);
        command.args(["--cluster-id", "bWlsbHJhY2UtdGVzdC0wMA", "--config"]).arg(self.properties());
        for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
            command
                .args(["--add-scram", &format!("{mechanism}=[name={user},password={password}]")]);
        }
        let output = command.output()?;
        if output.status.success() {
            return Ok(());
        }
        let said = [output.stdout, output.stderr].concat();
        let reason = format!("format: {}", String::from_utf8_lossy(&said));
        Err(PeerError::NotStarted { program: "kafka", reason })
    }

    fn configuration(&self) -> String {
        let Ports { plain, tls, mutual, sasl_tls, sasl, controller } = self.ports;
        let folder = self.folder.path().display();
        let address = self.plain_address();
        let listen = if self.options.address.is_some() { "0.0.0.0" } else { "127.0.0.1" };
        let own = self.folder.path().join("store");
        let store = self.options.log_dir.as_deref().unwrap_or(&own).display();
        let (user, password) = KAFKA_USER;
        let scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
        let plain_login = format!(
            "org.apache.kafka.common.security.plain.PlainLoginModule required \
             username=\"{user}\" password=\"{password}\" user_{user}=\"{password}\";"
        );
        let oauth = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required \
                     unsecuredLoginStringClaim_sub=\"broker\";";
        let mut logins = String::new();
        for listener in ["sasl_tls", "sasl"] {
            logins.push_str(&format!(
                "listener.name.{listener}.scram-sha-256.sasl.jaas.config={scram}\n\
                 listener.name.{listener}.scram-sha-512.sasl.jaas.config={scram}\n\
                 listener.name.{listener}.plain.sasl.jaas.config={plain_login}\n\
                 listener.name.{listener}.oauthbearer.sasl.jaas.config={oauth}\n"
            ));
        }
        format!(
            "process.roles=broker,controller\nnode.id=1\n\
             controller.listener.names=CONTROLLER\n\
             controller.quorum.bootstrap.servers=127.0.0.1:{controller}\n\
             listeners=PLAIN://{listen}:{plain},TLS://127.0.0.1:{tls},MUTUAL://127.0.0.1:{mutual},SASL_TLS://127.0.0.1:{sasl_tls},\
             SASL://127.0.0.1:{sasl},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=PLAIN://{address}:{plain},TLS://localhost:{tls},\
             MUTUAL://localhost:{mutual},\
             SASL_TLS://localhost:{sasl_tls},SASL://127.0.0.1:{sasl}\n\
             listener.security.protocol.map=PLAIN:PLAINTEXT,TLS:SSL,MUTUAL:SSL,SASL_TLS:SASL_SSL,\
             SASL:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT\n\
             inter.broker.listener.name=PLAIN\n\
             log.dirs={store}\n\
             ssl.keystore.type=PEM\nssl.keystore.location={folder}/server.pem\n\
             ssl.truststore.type=PEM\nssl.truststore.location={folder}/ca.pem\n\
             listener.name.mutual.ssl.client.auth=required\n\
             sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER\n\
             {logins}\
             num.partitions=3\nauto.create.topics.enable=false\ndefault.replication.factor=1\n\
             offsets.topic.replication.factor=1\noffsets.topic.num.partitions=3\n\
             transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n\
             transaction.state.log.num.partitions=3\nshare.coordinator.state.topic.replication.factor=1\n\
             group.initial.rebalance.delay.ms=0\nnum.network.threads=2\nnum.io.threads=2\n\
             log.cleaner.enable=false\nlog.retention.ms=-1\n{}\n",
            self.options.properties
        )
    }
}

/// Java with Kafka's classes, small and quick to start.
fn java() -> Result<Command, PeerError> {
    let jars = tools()
        .map(|tools| tools.join("kafka"))
        .filter(|jars| jars.join("pom.xml").is_file())
        .ok_or(PeerError::Missing {
            program: "kafka",
            variable: "XDG_CACHE_HOME",
            install: "scripts/setup kafka",
        })?;
    let mut command = Command::new(JAVA.find()?);
    command.args(["-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"]);
    command.arg("-cp").arg(jars.join("*"));
    Ok(command)
}

/// A process of Java that ends with this one, however that ends: a shell waits
/// for the end of a pipe, and kills it then.
#[derive(Debug)]
struct Java {
    shell: Child,
    /// Its end, and with it the shell's, is the end of this process.
    pipe: Option<ChildStdin>,
    pid: Pid,
}

impl Java {
    fn start<A: AsRef<std::ffi::OsStr>>(
        folder: &Path,
        args: impl IntoIterator<Item = A>,
    ) -> Result<Self, PeerError> {
        let log = fs::File::options().create(true).append(true).open(folder.join("log"))?;
        let java = java()?;
        // Without a word before the end, nobody is left to remove the folder.
        let script = "\"$@\" </dev/null >&2 & echo $!; exec >&-; read -r keep; kill -9 $!; wait; \
                      [ -n \"$keep\" ] || rm -rf \"$0\"";
        let mut shell = Command::new("sh")
            .args(["-c", script])
            .arg(folder)
            .arg(java.get_program())
            .args(java.get_args())
            .args(args)
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()?;
        let mut said = String::new();
        if let Some(stdout) = shell.stdout.as_mut() {
            stdout.read_to_string(&mut said)?;
        }
        let pid = said.trim().parse().ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other("the shell did not start Java"))?;
        Ok(Self { pipe: shell.stdin.take(), shell, pid })
    }

    fn lives(&self) -> bool {
        test_kill_process(self.pid).is_ok()
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(kill_process(self.pid, signal)?)
    }

    /// Ends it and waits until it has.
    fn end(mut self, signal: Signal) -> io::Result<()> {
        if self.signal(signal).is_ok() {
            let start = Instant::now();
            while self.lives() && start.elapsed() < Duration::from_secs(30) {
                // Ended and not yet waited for by the shell, it still counts as living.
                if is_zombie(self.pid) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        if let Some(mut pipe) = self.pipe.take() {
            pipe.write_all(b"keep\n")?;
        }
        self.shell.wait().map(drop)
    }
}

fn is_zombie(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    stat.is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z")))
}

impl Drop for Java {
    fn drop(&mut self) {
        self.pipe = None;
        let _ = self.shell.wait();
    }
}
