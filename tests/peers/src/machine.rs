//! nats-server in a virtual machine of its own, whose power can be cut and whose clock can be set.
//!
//! A killed process loses nothing that it has written: the operating system has it. At a power cut the operating
//! system ends too, and with it what it had not yet written to the disk. Here that is the machine's Linux with its
//! ext4, which ends with QEMU.
//!
//! What the machine has given to its disk is in a file of this computer and is there after the cut, flushed or not.
//! A real disk may lose what was not flushed; this one happens never to. What is lost is what the machine's kernel
//! held back, and that is what `sync_interval` of JetStream is about.
//!
//! Where the machine is emulated, its kernel takes ten seconds to start. So it is started once, up to the moment before
//! it knows of its disk, and its memory is saved; every start goes on from there: it finds its disk, replays the
//! journal, and starts nats-server.

use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tempfile::TempDir;

use crate::process::{Program, Running, tools};
use crate::{PeerError, free_port, nats};

const QEMU: Program = Program {
    name: "qemu-system-x86_64",
    variable: "MILLRACE_QEMU",
    install: "scripts/setup gpio-vm",
};

const BUSYBOX: Program =
    Program { name: "busybox", variable: "MILLRACE_BUSYBOX", install: "scripts/setup gpio-vm" };

const MKFS: Program = Program {
    name: "mkfs.ext4",
    variable: "MILLRACE_MKFS_EXT4",
    install: "apt-get install e2fsprogs",
};

/// `kvm`, `tcg`: how QEMU runs the machine. Without it KVM where there is KVM, and emulation elsewhere.
const ACCELERATION: &str = "MILLRACE_VM_ACCEL";

/// Room on its disk. The file has holes where nothing was written.
const DISK_BYTES: u64 = 4 << 30;

/// Until its kernel has started: a second with KVM, ten when it is emulated, and more when something else needs the
/// processor.
const BOOT: Duration = Duration::from_secs(90);

/// The same where KVM may turn out not to work.
const BOOT_WITH_KVM: Duration = Duration::from_secs(20);

/// Until it has answered a command.
const ANSWER: Duration = Duration::from_secs(60);

/// What its console says before its memory is saved.
const WAITS: &str = "machine: waits";

/// Loads what it needs but for the disk, and then does what is asked on the second serial line.
const INIT: &str = r#"#!/bin/busybox sh
b=/bin/busybox
fail() { echo "machine: cannot $*"; $b poweroff -f; }
$b mount -t devtmpfs dev /dev || fail mount /dev
$b mount -t proc proc /proc || fail mount /proc
$b mount -t sysfs sys /sys || fail mount /sys
for m in $($b cat /lib/modules/order); do
  [ $m = virtio_blk ] || $b insmod /lib/modules/$m.ko || fail load $m
done
$b ip link set lo up
$b ip address add 10.0.2.15/24 dev eth0 && $b ip link set eth0 up || fail bring up the network
$b stty -F /dev/ttyS1 -echo
echo "machine: waits"
while read -r what seconds; do
  case $what in
  start)
    $b date -s "@$seconds" >/dev/null
    [ -e /dev/vda ] || $b insmod /lib/modules/virtio_blk.ko || fail load virtio_blk
    $b mount -t ext4 /dev/vda /data || fail mount the disk
    { /bin/nats-server -c /data/nats.conf; echo "machine: nats-server ended with $?"; } >/dev/console 2>&1 &
    ;;
  sync) $b sync ;;
  clock) $b date -s "@$(($($b date +%s) + seconds))" >/dev/null ;;
  esac
  echo "ok $($b date +%s)"
done </dev/ttyS1 >/dev/ttyS1
fail read commands
"#;

/// How the nats-server of a machine is to be started, where it differs from the default.
#[derive(Debug, Clone, Default)]
pub struct MachineOptions {
    /// `sync_interval: always`. Without it JetStream syncs every two minutes.
    pub sync_always: bool,
    /// Lines for its configuration file, in the server's own syntax.
    pub config: String,
}

/// A virtual machine with a disk, on which nats-server runs with JetStream; on a free port of this computer.
#[derive(Debug)]
pub struct NatsMachine {
    port: u16,
    kernel: PathBuf,
    acceleration: &'static str,
    // Ended before its folder goes.
    running: Option<Running>,
    folder: TempDir,
}

impl NatsMachine {
    /// Makes a disk, and starts a machine with it.
    ///
    /// # Errors
    ///
    /// When QEMU or the kernel is missing, on another processor than x86-64, or when it does not start.
    pub fn start(options: &MachineOptions) -> Result<Self, PeerError> {
        let home = kernel_folder()?;
        let folder = TempDir::with_prefix("millrace-machine-")?;
        let sync = if options.sync_always { ", sync_interval: always" } else { "" };
        let config = format!(
            "listen: \"0.0.0.0:4222\"\njetstream {{ store_dir: \"/data\", max_file_store: 3GB{sync} }}\n{}\n",
            options.config
        );
        make_disk(folder.path(), &config)?;
        fs::write(folder.path().join("initrd"), initrd(&home)?)?;
        let kernel = home.join("vmlinuz");
        let acceleration = "tcg";
        let mut machine = Self { port: free_port()?, kernel, acceleration, running: None, folder };
        machine.boot()?;
        machine.restart()?;
        Ok(machine)
    }

    /// Address for clients.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Cuts the power (kill -9 of the machine). Clients see their connections end at once; frozen before, it is silent
    /// as a machine without power is.
    ///
    /// # Errors
    ///
    /// When the operating system refuses.
    pub fn cut_power(&mut self) -> io::Result<()> {
        self.running.take().map_or(Ok(()), |mut running| running.kill())
    }

    /// Starts it again with the same disk and port, after cutting the power of one that runs, and waits until
    /// nats-server answers. Its clock is that of this computer again, to the second.
    ///
    /// # Errors
    ///
    /// When it does not start.
    pub fn restart(&mut self) -> Result<(), PeerError> {
        self.restart_at(SystemTime::now())
    }

    /// The same with its clock at a time: of a machine without a battery for it, for example.
    ///
    /// # Errors
    ///
    /// When it does not start.
    pub fn restart_at(&mut self, clock: SystemTime) -> Result<(), PeerError> {
        self.cut_power()?;
        let mut arguments = self.arguments();
        let saved = self.folder.path().join("memory").display().to_string();
        arguments.extend(["-incoming".into(), format!("exec:cat '{saved}'").into()]);
        let runs =
            || self.monitor("info status").is_ok_and(|said| said.contains("status: running"));
        let running = Running::start_within(BOOT, &QEMU, arguments, &self.log_file(), runs)?;
        self.running = Some(running);
        let seconds = clock.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.command("start", i64::try_from(seconds).unwrap_or_default())?;
        // Not before: of a connection that QEMU had taken while it read the memory nobody would know.
        let forward = format!("hostfwd_add net tcp:127.0.0.1:{}-10.0.2.15:4222", self.port);
        let said = self.monitor(&forward)?;
        if said.contains("could not") {
            return Err(self.not_started(&said));
        }
        let start = Instant::now();
        while !answers(self.port) {
            if start.elapsed() > BOOT {
                return Err(self.not_started("nats-server does not answer"));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Stops it from answering, or lets it go on.
    ///
    /// # Errors
    ///
    /// When the operating system refuses.
    pub fn freeze(&self, freeze: bool) -> io::Result<()> {
        self.running.as_ref().map_or(Ok(()), |running| running.freeze(freeze))
    }

    /// Sets its clock forward or back by so many seconds (to the second: what is below is cut off), and answers what it shows
    /// then, in seconds since 1970. With 0 the clock is read, and set back by less than a second.
    ///
    /// # Errors
    ///
    /// When it does not run, or does not answer.
    pub fn step_clock(&self, seconds: i64) -> Result<i64, PeerError> {
        self.command("clock", seconds)
    }

    /// Has its kernel write to the disk what it holds back, as it does by itself after half a minute.
    ///
    /// # Errors
    ///
    /// When it does not run, or does not answer.
    pub fn write_back(&self) -> Result<(), PeerError> {
        self.command("sync", 0).map(drop)
    }

    /// What its console and nats-server on it have said, at all starts.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }

    /// Starts its kernel and saves its memory.
    fn boot(&mut self) -> Result<(), PeerError> {
        let wanted = std::env::var(ACCELERATION).unwrap_or_default();
        let ways: &[&'static str] = match wanted.as_str() {
            "kvm" => &["kvm"],
            "tcg" => &["tcg"],
            // KVM may not be there, not be allowed, or not be good enough, as on some virtual machines.
            _ => &["kvm", "tcg"],
        };
        let mut outcome = Ok(());
        for way in ways {
            self.acceleration = way;
            let _ = fs::remove_file(self.log_file());
            outcome = self.boot_and_save();
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    fn boot_and_save(&self) -> Result<(), PeerError> {
        let patience = if self.acceleration == "kvm" { BOOT_WITH_KVM } else { BOOT };
        let waits = || self.log().contains(WAITS);
        let running =
            Running::start_within(patience, &QEMU, self.arguments(), &self.log_file(), waits)?;
        let place = self.folder.path().join("migration");
        let _ = fs::remove_file(&place);
        let listener = UnixListener::bind(&place)?;
        listener.set_nonblocking(true)?;
        let mut monitor = self.connect("monitor")?;
        writeln!(
            monitor,
            "migrate_set_parameter max-bandwidth 4G\nmigrate unix:{}",
            place.display()
        )?;
        let start = Instant::now();
        let mut memory = loop {
            match listener.accept() {
                Ok((memory, _)) => break memory,
                Err(_) if start.elapsed() < ANSWER => thread::sleep(Duration::from_millis(10)),
                Err(_) => return Err(self.not_started("its memory could not be saved")),
            }
        };
        memory.set_nonblocking(false)?;
        memory.set_read_timeout(Some(ANSWER))?;
        io::copy(&mut memory, &mut fs::File::create(self.folder.path().join("memory"))?)?;
        drop(running);
        Ok(())
    }

    /// Has it do something, and answers what its clock shows then.
    fn command(&self, what: &str, seconds: i64) -> Result<i64, PeerError> {
        let mut line = self.connect("control")?;
        writeln!(line, "{what} {seconds}")?;
        let mut answer = String::new();
        // Nothing within the time is no answer, as is anything else than a time.
        let _ = BufReader::new(line).read_line(&mut answer);
        let shown = answer.trim().strip_prefix("ok ").and_then(|shown| shown.parse().ok());
        shown.ok_or_else(|| self.not_started(&format!("{what} {seconds}: {answer:?}")))
    }

    /// What QEMU's monitor says to a command, as far as it has said it at once.
    fn monitor(&self, command: &str) -> io::Result<String> {
        let mut monitor = self.connect("monitor")?;
        monitor.set_read_timeout(Some(Duration::from_millis(50)))?;
        writeln!(monitor, "{command}")?;
        let mut said = Vec::new();
        let _ = monitor.read_to_end(&mut said);
        Ok(String::from_utf8_lossy(&said).into_owned())
    }

    fn connect(&self, name: &str) -> io::Result<UnixStream> {
        let stream = UnixStream::connect(self.folder.path().join(name))?;
        stream.set_read_timeout(Some(ANSWER))?;
        Ok(stream)
    }

    fn not_started(&self, reason: &str) -> PeerError {
        PeerError::NotStarted { program: QEMU.name, reason: format!("{reason}\n{}", self.log()) }
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn arguments(&self) -> Vec<OsString> {
        let file = |name: &str| option(&self.folder.path().join(name));
        let mut arguments: Vec<OsString> = Vec::new();
        // One thread: scripts/gpio-vm says why.
        let acceleration =
            if self.acceleration == "tcg" { "tcg,thread=single" } else { self.acceleration };
        arguments.extend(["-accel".into(), acceleration.into()]);
        let fixed = "-cpu max -smp 1 -m 512 -nodefaults -no-user-config -display none -no-reboot";
        arguments.extend(fixed.split(' ').map(OsString::from));
        arguments.extend(["-kernel".into(), self.kernel.clone().into_os_string()]);
        arguments.extend(["-initrd".into(), self.folder.path().join("initrd").into_os_string()]);
        let others = [
            ("-append", "console=ttyS0 quiet loglevel=3 panic=-1".to_owned()),
            ("-chardev", format!("file,id=console,append=on,path={}", file("log"))),
            ("-serial", "chardev:console".to_owned()),
            ("-chardev", format!("socket,id=control,server=on,wait=off,path={}", file("control"))),
            ("-serial", "chardev:control".to_owned()),
            ("-monitor", format!("unix:{},server=on,wait=off", file("monitor"))),
            // Writes reach the file's pages at once, and a flush reaches the disk below: see the top of this file.
            ("-drive", format!("if=none,id=disk,format=raw,cache=writeback,file={}", file("disk"))),
            ("-device", "virtio-blk-pci,drive=disk".to_owned()),
            // It is reached from this computer alone, and reaches nothing.
            ("-netdev", "user,id=net,restrict=on".to_owned()),
            // Without the file for starting from the network, which need not be installed.
            ("-device", "virtio-net-pci,netdev=net,romfile=".to_owned()),
            // Tells its kernel that its memory is a copy, or every start would draw the same random numbers.
            ("-device", "vmgenid,guid=auto".to_owned()),
        ];
        for (name, value) in others {
            arguments.extend([name.into(), value.into()]);
        }
        arguments
    }
}

/// A path as part of an option of QEMU, where a comma is written twice.
fn option(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// Whether nats-server answers. QEMU takes connections before it does.
fn answers(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { return false };
    let mut first = [0; 5];
    stream.set_read_timeout(Some(Duration::from_secs(1))).is_ok()
        && stream.read_exact(&mut first).is_ok()
        && &first == b"INFO "
}

/// Where set-up puts the kernel and its modules.
fn kernel_folder() -> Result<PathBuf, PeerError> {
    if !cfg!(target_arch = "x86_64") {
        return Err(PeerError::NoMachine("it is made for x86-64".to_owned()));
    }
    let home = tools().unwrap_or_default().join("gpio-vm");
    let modules = home.join("nats.modules");
    if !modules.is_file() {
        return Err(PeerError::NoMachine(format!("no {}", modules.display())));
    }
    Ok(home)
}

/// A file with a file system, in which there is the configuration of nats-server.
fn make_disk(folder: &Path, config: &str) -> Result<(), PeerError> {
    let (disk, content) = (folder.join("disk"), folder.join("content"));
    fs::create_dir(&content)?;
    fs::write(content.join("nats.conf"), config)?;
    fs::File::create(&disk)?.set_len(DISK_BYTES)?;
    let mut mkfs = Command::new(MKFS.find()?);
    let made = mkfs.args(["-q", "-F", "-d"]).arg(&content).arg(&disk).output()?;
    if !made.status.success() {
        let reason = String::from_utf8_lossy(&made.stderr).into_owned();
        return Err(PeerError::NotStarted { program: MKFS.name, reason });
    }
    Ok(())
}

/// The machine's first file system: everything that is not to survive.
fn initrd(home: &Path) -> Result<Vec<u8>, PeerError> {
    let mut archive = Archive::default();
    for folder in ["bin", "data", "dev", "lib", "lib/modules", "proc", "sys", "tmp"] {
        archive.add(folder, 0o040_755, &[]);
    }
    archive.add("init", 0o100_755, INIT.as_bytes());
    let order = fs::read_to_string(home.join("nats.modules"))?;
    for module in order.lines() {
        let name = format!("{module}.ko");
        archive.add(&format!("lib/modules/{name}"), 0o100_644, &fs::read(home.join(&name))?);
    }
    archive.add("lib/modules/order", 0o100_644, order.as_bytes());
    for (name, program) in [("busybox", BUSYBOX), ("nats-server", nats::PROGRAM)] {
        let path = program.find()?;
        archive.add(&format!("bin/{name}"), 0o100_755, &fs::read(&path)?);
        for library in libraries(&path)? {
            archive.add_with_folders(&library)?;
        }
    }
    Ok(archive.finish())
}

/// The files that a program is linked to: none, for most builds of nats-server.
fn libraries(program: &Path) -> io::Result<Vec<PathBuf>> {
    let said = Command::new("ldd").arg(program).output()?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    Ok(said.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect())
}

/// A cpio archive of the kind that the kernel unpacks (`newc`).
#[derive(Debug, Default)]
struct Archive {
    bytes: Vec<u8>,
    files: u32,
}

impl Archive {
    /// A file or folder, by its path without the leading slash. Folders come before what is in them.
    fn add(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.files += 1;
        let (number, length, name) = (self.files, content.len(), path.len() + 1);
        // Number, mode, owner, group, links, time, length, four of devices, length of the name, checksum.
        let header = format!(
            "070701{number:08x}{mode:08x}{0:08x}{0:08x}{1:08x}{0:08x}{length:08x}{0:08x}{0:08x}{0:08x}{0:08x}{name:08x}{0:08x}",
            0, 1
        );
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(content);
        self.align();
    }

    /// A file of this computer at the same place, and the folders on the way there.
    fn add_with_folders(&mut self, file: &Path) -> io::Result<()> {
        let inside = file.to_string_lossy().trim_start_matches('/').to_owned();
        for (end, _) in inside.match_indices('/') {
            if let Some(folder) = inside.get(..end) {
                self.add(folder, 0o040_755, &[]);
            }
        }
        self.add(&inside, 0o100_755, &fs::read(file)?);
        Ok(())
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, &[]);
        self.bytes
    }
}
