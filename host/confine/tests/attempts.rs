//! A process tries what a hostile provider would: once as it is, which shows that the attempts are good, and once confined,
//! where none may succeed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, ToSocketAddrs as _};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use millrace_confine::Confinement;
use nix::sched::CloneFlags;
use nix::unistd::Pid;
use rustix::process::{Resource, Rlimit, setrlimit};

/// Set in the process that tries: `open` or `confined`.
const MODE: &str = "MILLRACE_ATTEMPTS";

/// Set in a child of it, which only reads the secret.
const CHILD: &str = "MILLRACE_CHILD";

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// The folders and the process that attempts are about.
struct Stage {
    folder: PathBuf,
    victim: i32,
    port: u16,
}

impl Stage {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

fn main() -> ExitCode {
    if let Ok(secret) = std::env::var(CHILD) {
        return match std::fs::read(secret) {
            Ok(_) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    if let Ok(mode) = std::env::var(MODE) {
        tries(mode == "confined");
        return ExitCode::SUCCESS;
    }
    the_kernel_refuses_every_attempt();
    what_is_not_there_is_not_allowed();
    println!("ok");
    ExitCode::SUCCESS
}

fn what_is_not_there_is_not_allowed() {
    let mut confinement = Confinement::new();
    confinement.read("/nowhere/at/all");
    let error = confinement.enforce().unwrap_err().to_string();
    assert!(error.contains("/nowhere/at/all cannot be allowed"), "{error}");
}

fn the_kernel_refuses_every_attempt() {
    let open = outcomes("open");
    let confined = outcomes("confined");
    // As it is, each succeeds, but for those that root alone may do.
    let root = rustix::process::getuid().is_root();
    for (name, outcome) in &open {
        let roots = ["shadow", "mount", "capability"].iter().any(|part| name.contains(part));
        assert!(outcome == "ok" || (roots && !root), "{name}, as it is: {outcome}");
    }
    assert_eq!(open.keys().collect::<Vec<_>>(), confined.keys().collect::<Vec<_>>());
    let (allowed, attempts): (Vec<_>, Vec<_>) =
        confined.iter().partition(|(name, _)| name.starts_with("may"));
    for (name, outcome) in &allowed {
        assert_eq!(*outcome, "ok", "confined, {name}");
    }
    let succeeded: Vec<_> = attempts.iter().filter(|(_, outcome)| *outcome == "ok").collect();
    for (name, outcome) in &attempts {
        println!("{name}: {outcome}");
    }
    println!("{} attempts, {} of them succeeded", attempts.len(), succeeded.len());
    assert!(succeeded.is_empty(), "{succeeded:?}");
    assert!(attempts.len() >= 25, "{attempts:?}");
}

/// Has all tried by a process of its own, and gives how each went.
fn outcomes(mode: &str) -> BTreeMap<String, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for name in ["work", "given", "other"] {
        std::fs::create_dir(path(name)).unwrap();
    }
    for file in ["given/note", "other/secret", "other/moved", "other/removed", "other/cut"] {
        std::fs::write(path(file), "secret").unwrap();
    }
    std::fs::copy(std::env::current_exe().unwrap(), path("work/program")).unwrap();
    std::fs::set_permissions(path("work/program"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let abstract_name = format!("millrace-attempts-{}-{mode}", std::process::id());
    let address = SocketAddr::from_abstract_name(&abstract_name).unwrap();
    let _abstract = UnixListener::bind_addr(&address).unwrap();
    let _stream = UnixListener::bind(path("other/stream")).unwrap();
    let _datagrams = UnixDatagram::bind(path("other/datagrams")).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut victim =
        Command::new("/bin/sleep").arg("60").env("OPERATORS", "secret").spawn().unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .env(MODE, mode)
        .env("FOLDER", folder.path())
        .env("VICTIM", victim.id().to_string())
        .env("PORT", tcp.local_addr().unwrap().port().to_string())
        .env("ABSTRACT", abstract_name)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    victim.kill().unwrap();
    victim.wait().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{mode}: {text}\n{said}");
    text.lines()
        .filter_map(|line| line.split_once('\t'))
        .map(|(a, b)| (a.into(), b.into()))
        .collect()
}

/// Tries all and prints how each went.
fn tries(confined: bool) {
    let set = |name: &str| std::env::var(name).unwrap();
    let stage = Stage {
        folder: set("FOLDER").into(),
        victim: set("VICTIM").parse().unwrap(),
        port: set("PORT").parse().unwrap(),
    };
    if confined {
        let mut confinement = Confinement::new();
        confinement.read(stage.path("given"));
        confinement.work(stage.path("work"));
        let enforced = confinement.enforce().unwrap();
        eprintln!("Landlock {}, lacking {:?}", enforced.abi, enforced.lacking());
    }
    let say = |name: &str, outcome: Outcome| match outcome {
        Ok(()) => println!("{name}\tok"),
        Err(error) => println!("{name}\t{error}"),
    };
    allowed(&stage, &say);
    files(&stage, &say);
    processes(&stage, &say);
    system(&stage, &say);
}

/// What still has to work.
fn allowed(stage: &Stage, say: &dyn Fn(&str, Outcome)) {
    let secret = stage.path("other/secret");
    say("may read what it was given", read(&stage.path("given/note")));
    say("may read the system's names", read(Path::new("/etc/hosts")));
    say("may make and remove files of its own", {
        let file = stage.path("work/own");
        std::fs::write(&file, "a")
            .and_then(|()| std::fs::rename(&file, stage.path("work/other")))
            .and_then(|()| std::fs::remove_file(stage.path("work/other")))
            .map_err(Into::into)
    });
    say("may change times of files of its own", {
        let own = std::fs::File::create(stage.path("work/own"));
        own.and_then(|file| file.set_modified(std::time::UNIX_EPOCH)).map_err(Into::into)
    });
    say("may use the network", {
        let found = ("localhost", stage.port).to_socket_addrs();
        let found =
            found.map_err(Into::into).and_then(|mut all| all.next().ok_or("no address".into()));
        found
            .and_then(|_: std::net::SocketAddr| Ok(TcpStream::connect(("127.0.0.1", stage.port))?))
            .map(drop)
    });
    say("may start threads", {
        std::thread::Builder::new()
            .spawn(|| ())
            .map_err(Into::into)
            .map(|thread| thread.join().unwrap())
    });
    // The child reads what it may not in the second attempt.
    say("may run programs of its own", child(stage, &stage.path("given/note")));
    say("a child reads a file outside", child(stage, &secret));
}

fn files(stage: &Stage, say: &dyn Fn(&str, Outcome)) {
    let secret = stage.path("other/secret");
    say("reads a file outside", read(&secret));
    say("reads a file outside by a way around", read(&stage.path("given/../other/secret")));
    say("reads a file outside through /proc", {
        read(&Path::new("/proc/self/root").join(secret.strip_prefix("/").unwrap()))
    });
    say("reads /etc/shadow", read(Path::new("/etc/shadow")));
    say("reads /etc/passwd", read(Path::new("/etc/passwd")));
    say(
        "lists a folder outside",
        std::fs::read_dir(stage.path("other")).map(drop).map_err(Into::into),
    );
    say("makes a file outside", std::fs::write(stage.path("other/new"), "a").map_err(Into::into));
    say("writes what it may only read", {
        std::fs::File::options()
            .append(true)
            .open(stage.path("given/note"))
            .map(drop)
            .map_err(Into::into)
    });
    say("truncates a file outside", {
        nix::unistd::truncate(&stage.path("other/cut"), 0).map_err(Into::into)
    });
    say(
        "removes a file outside",
        std::fs::remove_file(stage.path("other/removed")).map_err(Into::into),
    );
    say("moves a file in", {
        std::fs::rename(stage.path("other/moved"), stage.path("work/moved")).map_err(Into::into)
    });
    say(
        "links a file in",
        std::fs::hard_link(&secret, stage.path("work/link")).map_err(Into::into),
    );
    say("makes a symbolic link", {
        std::os::unix::fs::symlink(&secret, stage.path("work/symbolic")).map_err(Into::into)
    });
    say(
        "makes a socket file",
        UnixListener::bind(stage.path("work/socket")).map(drop).map_err(Into::into),
    );
    say("changes a mode", {
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600))
            .map_err(Into::into)
    });
    say("changes an owner through a file that it may read", {
        let file = std::fs::File::open(stage.path("given/note"));
        let owner = Some(rustix::process::getuid().as_raw());
        file.and_then(|file| std::os::unix::fs::fchown(file, owner, None)).map_err(Into::into)
    });
    say("watches a folder outside", {
        use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
        let watch = Inotify::init(InitFlags::empty());
        watch
            .and_then(|watch| watch.add_watch(&stage.path("other"), AddWatchFlags::IN_CREATE))
            .map(drop)
            .map_err(Into::into)
    });
    say("changes times", {
        let past = nix::sys::time::TimeSpec::new(1, 0);
        let follow = nix::sys::stat::UtimensatFlags::FollowSymlink;
        nix::sys::stat::utimensat(nix::fcntl::AT_FDCWD, &secret, &past, &past, follow)
            .map_err(Into::into)
    });
    say("replaces its own folder", {
        let (own, other) = (stage.path("work"), stage.path("work-2"));
        std::fs::rename(&own, &other)
            .and_then(|()| std::fs::rename(&other, &own))
            .map_err(Into::into)
    });
    say("runs a program of the system", ran(Command::new("/bin/true").status()));
    say("runs a shell", ran(Command::new("/bin/sh").args(["-c", "true"]).status()));
}

fn processes(stage: &Stage, say: &dyn Fn(&str, Outcome)) {
    let victim = Pid::from_raw(stage.victim);
    say("reads another's environment", read(Path::new(&format!("/proc/{victim}/environ"))));
    say("reads another's memory", {
        std::fs::File::open(format!("/proc/{victim}/mem")).map(drop).map_err(Into::into)
    });
    say("traces another", {
        nix::sys::ptrace::seize(victim, nix::sys::ptrace::Options::empty()).map_err(Into::into)
    });
    say("signals another", {
        let own = rustix::process::Pid::from_raw(stage.victim).unwrap();
        rustix::process::kill_process(own, rustix::process::Signal::CONT).map_err(Into::into)
    });
    say("connects to an abstract socket", {
        SocketAddr::from_abstract_name(std::env::var("ABSTRACT").unwrap())
            .and_then(|address| UnixStream::connect_addr(&address))
            .map(drop)
            .map_err(Into::into)
    });
    say("sets the limits of another", {
        let files = Rlimit { current: Some(64), maximum: Some(64) };
        let own = rustix::process::Pid::from_raw(stage.victim);
        rustix::process::prlimit(own, Resource::Nofile, files).map(drop).map_err(Into::into)
    });
    say("sets the priority of another", {
        let own = rustix::process::Pid::from_raw(stage.victim);
        rustix::process::setpriority_process(own, 5).map_err(Into::into)
    });
    say("connects to a socket file", {
        UnixStream::connect(stage.path("other/stream")).map(drop).map_err(Into::into)
    });
    say("sends to a socket file from a pair", {
        UnixDatagram::pair()
            .and_then(|(one, _)| one.connect(stage.path("other/datagrams")))
            .map_err(Into::into)
    });
    say("sends to a socket file from a raw pair", {
        use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socketpair};
        let pair = socketpair(AddressFamily::Unix, SockType::Raw, None, SockFlag::empty());
        pair.and_then(|(one, _)| {
            let address = UnixAddr::new(&stage.path("other/datagrams"))?;
            connect(std::os::fd::AsRawFd::as_raw_fd(&one), &address)
        })
        .map_err(Into::into)
    });
}

fn system(stage: &Stage, say: &dyn Fn(&str, Outcome)) {
    say("raises the limit of core dumps", {
        let none = Rlimit { current: None, maximum: None };
        let some = Rlimit {
            current: Some(1),
            maximum: rustix::process::getrlimit(Resource::Core).maximum,
        };
        match rustix::process::getrlimit(Resource::Core).maximum {
            None => setrlimit(Resource::Core, none).map_err(Into::into),
            Some(_) => setrlimit(Resource::Core, some).map_err(Into::into),
        }
    });
    say("has a capability", {
        let own = caps::read(None, caps::CapSet::Effective).unwrap();
        if own.is_empty() { Err("none".into()) } else { Ok(()) }
    });
    say("mounts", {
        let (work, none) = (stage.path("work"), None::<&str>);
        nix::mount::mount(none, &work, Some("tmpfs"), nix::mount::MsFlags::empty(), none)
            .and_then(|()| nix::mount::umount(&work))
            .map_err(Into::into)
    });
    // Last, because it stays.
    say("makes a user namespace", {
        nix::sched::unshare(CloneFlags::CLONE_NEWUSER).map_err(Into::into)
    });
}

fn read(path: &Path) -> Outcome {
    let mut byte = [0; 1];
    Ok(std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut byte))?)
}

fn child(stage: &Stage, file: &Path) -> Outcome {
    ran(Command::new(stage.path("work/program")).env(CHILD, file).status())
}

fn ran(status: std::io::Result<std::process::ExitStatus>) -> Outcome {
    let _ = std::io::stdout().flush();
    match status? {
        status if status.success() => Ok(()),
        status => Err(status.to_string().into()),
    }
}
