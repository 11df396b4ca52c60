//! System calls that a confined process has no use for, and that would lead around the rules for files.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use crate::ConfineError;

/// Calls that are refused with "operation not permitted".
///
/// Landlock has no rules for modes, owners and attributes of files, nor for watching them; the rest reach other processes, the
/// kernel itself, or do what they do without a system call that could be looked at (`io_uring`).
const REFUSED: &[i64] = &[
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_delete_module,
    libc::SYS_fchmodat,
    SYS_FCHMODAT2,
    SYS_FILE_SETATTR,
    SYS_OPEN_TREE_ATTR,
    SYS_REMOVEXATTRAT,
    SYS_SETXATTRAT,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_finit_module,
    libc::SYS_fremovexattr,
    libc::SYS_fsetxattr,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_inotify_add_watch,
    libc::SYS_fanotify_init,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kcmp,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lremovexattr,
    libc::SYS_lsetxattr,
    libc::SYS_migrate_pages,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_move_pages,
    libc::SYS_mq_open,
    libc::SYS_msgget,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_madvise,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_removexattr,
    libc::SYS_request_key,
    libc::SYS_semget,
    libc::SYS_setns,
    libc::SYS_setxattr,
    libc::SYS_shmget,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
];

/// The older forms of some.
#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: &[i64] = &[
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_futimesat,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_lchown,
    libc::SYS_utime,
    libc::SYS_utimes,
];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: &[i64] = &[];

/// Calls that say in an argument which process they are about, 0 being this one, and which argument that is: of others they are
/// refused.
const OF_OTHERS: &[(i64, u8)] = &[
    (libc::SYS_ioprio_set, 1),
    (libc::SYS_prlimit64, 0),
    (libc::SYS_sched_setaffinity, 0),
    (libc::SYS_sched_setattr, 0),
    (libc::SYS_sched_setparam, 0),
    (libc::SYS_sched_setscheduler, 0),
    (libc::SYS_setpriority, 1),
];

/// Newer than the libraries' list. The same on all machines.
const SYS_FCHMODAT2: i64 = 452;
const SYS_SETXATTRAT: i64 = 463;
const SYS_REMOVEXATTRAT: i64 = 466;
const SYS_OPEN_TREE_ATTR: i64 = 467;
const SYS_FILE_SETATTR: i64 = 469;

/// On x86-64 the kernel may take each call under a second number.
#[cfg(target_arch = "x86_64")]
const SECOND_NUMBER: Option<i64> = Some(0x4000_0000);
#[cfg(not(target_arch = "x86_64"))]
const SECOND_NUMBER: Option<i64> = None;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Refuses them from now on, to this thread and all that it starts.
pub(crate) fn restrict() -> Result<(), ConfineError> {
    let mut rules: Rules = BTreeMap::new();
    for call in REFUSED.iter().chain(REFUSED_HERE) {
        refuse(&mut rules, *call, Vec::new());
    }
    for (call, process) in OF_OTHERS {
        let other = when(*process, SeccompCmpOp::Ne, 0)?;
        refuse(&mut rules, *call, vec![all_of(vec![other])?]);
    }
    // Any socket but of a network, and of the kernel's list of addresses.
    let networks = [libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
    let other = networks.map(|family| when(0, SeccompCmpOp::Ne, family as u64));
    refuse(
        &mut rules,
        libc::SYS_socket,
        vec![all_of(other.into_iter().collect::<Result<_, _>>()?)?],
    );
    // Pairs are connected for good, but for those of datagrams, which raw ones are as well (unix(7)).
    let datagrams = [libc::SOCK_DGRAM, libc::SOCK_RAW]
        .map(|kind| all_of(vec![when(1, SeccompCmpOp::MaskedEq(0xf), kind as u64)?]));
    let datagrams = datagrams.into_iter().collect::<Result<_, _>>()?;
    refuse(&mut rules, libc::SYS_socketpair, datagrams);
    // Times of files that are open are their holder's.
    let by_path = condition(1, SeccompCmpArgLen::Qword, SeccompCmpOp::Ne, 0)?;
    refuse(&mut rules, libc::SYS_utimensat, vec![all_of(vec![by_path])?]);
    // A user namespace gives capabilities within it.
    let user = libc::CLONE_NEWUSER as u64;
    let namespace = when(0, SeccompCmpOp::MaskedEq(user), user)?;
    refuse(&mut rules, libc::SYS_clone, vec![all_of(vec![namespace])?]);
    apply(rules, libc::EPERM)?;
    // Its arguments cannot be looked at; C libraries then do the same with `clone`.
    let mut rules: Rules = BTreeMap::new();
    refuse(&mut rules, libc::SYS_clone3, Vec::new());
    apply(rules, libc::ENOSYS)
}

/// Refuses a call: always, or when one of the rules applies.
fn refuse(rules: &mut Rules, call: i64, when: Vec<SeccompRule>) {
    if let Some(bit) = SECOND_NUMBER {
        rules.insert(call | bit, when.clone());
    }
    rules.insert(call, when);
}

fn when(argument: u8, is: SeccompCmpOp, value: u64) -> Result<SeccompCondition, ConfineError> {
    condition(argument, SeccompCmpArgLen::Dword, is, value)
}

fn condition(
    argument: u8,
    length: SeccompCmpArgLen,
    is: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, ConfineError> {
    SeccompCondition::new(argument, length, is, value).map_err(wrong)
}

fn all_of(conditions: Vec<SeccompCondition>) -> Result<SeccompRule, ConfineError> {
    SeccompRule::new(conditions).map_err(wrong)
}

fn apply(rules: Rules, errno: i32) -> Result<(), ConfineError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(wrong)?;
    let refused = SeccompAction::Errno(errno.unsigned_abs());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, arch).map_err(wrong)?;
    let program = BpfProgram::try_from(filter).map_err(wrong)?;
    seccompiler::apply_filter(&program).map_err(|error| ConfineError::Calls(error.to_string()))
}

fn wrong(error: seccompiler::BackendError) -> ConfineError {
    ConfineError::Calls(error.to_string())
}
