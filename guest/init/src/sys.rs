// SPDX-License-Identifier: MIT OR Apache-2.0
//! Glue: every call into the C library that needs `unsafe`, each behind a safe function.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

fn check(ret: libc::c_int) -> io::Result<libc::c_int> {
    if ret < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(ret)
    }
}

fn cstring(text: &str) -> io::Result<CString> {
    CString::new(text).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "embedded NUL"))
}

pub fn mount(source: &str, target: &str, fstype: &str, data: &str) -> io::Result<()> {
    let (source, target, fstype, data) = (
        cstring(source)?,
        cstring(target)?,
        cstring(fstype)?,
        cstring(data)?,
    );
    // SAFETY: four NUL-terminated strings that outlive the call.
    check(unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            fstype.as_ptr(),
            0,
            data.as_ptr().cast(),
        )
    })
    .map(drop)
}

/// Restart the machine: QEMU runs with -no-reboot and exits. Only returns on failure.
pub fn restart() -> io::Error {
    // SAFETY: no pointers; needs CAP_SYS_BOOT and is refused without.
    unsafe {
        libc::sync();
        libc::reboot(libc::RB_AUTOBOOT);
    }
    io::Error::last_os_error()
}

pub fn pid() -> i32 {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::getpid() }
}

/// `kill(2)`, all its meanings of `pid` included.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// One ended child, if there is one: its pid and raw wait status.
pub fn reap() -> Option<(i32, i32)> {
    let mut status = 0;
    // SAFETY: `status` is a valid place for the result.
    let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
    (pid > 0).then_some((pid, status))
}

/// Exit code and signal of a wait status; the one that does not apply is 0.
pub fn decode_status(status: i32) -> (i32, i32) {
    if libc::WIFSIGNALED(status) {
        (0, libc::WTERMSIG(status))
    } else {
        (libc::WEXITSTATUS(status), 0)
    }
}

/// Exit code for a wait status, as a shell gives it: 128 and the signal, if one ended the program.
pub fn shell_code(status: i32) -> i32 {
    match decode_status(status) {
        (code, 0) => code,
        (_, signal) => 128 + signal,
    }
}

/// Let the program that the command starts be traced by this one: it stops when it has been executed.
pub fn be_traced(command: &mut Command) {
    // SAFETY: PTRACE_TRACEME has no other arguments and is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            let null = std::ptr::null_mut::<libc::c_void>();
            if libc::ptrace(libc::PTRACE_TRACEME, 0, null, null) < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
}

/// The next wait status of this child, once there is one.
pub fn wait_for(pid: i32) -> io::Result<i32> {
    let mut status = 0;
    // SAFETY: `status` is a valid place for the result.
    check(unsafe { libc::waitpid(pid, &mut status, libc::__WALL) })?;
    Ok(status)
}

/// The signal that a traced child stopped for; it has ended otherwise.
pub fn stopped_by(status: i32) -> Option<i32> {
    libc::WIFSTOPPED(status).then(|| libc::WSTOPSIG(status))
}

/// A stopped child is killed if this program goes first.
pub fn end_with_tracer(pid: i32) -> io::Result<()> {
    // SAFETY: the request takes its options by value and no address.
    let ret = unsafe {
        libc::ptrace(
            libc::PTRACE_SETOPTIONS,
            pid,
            std::ptr::null_mut::<libc::c_void>(),
            libc::PTRACE_O_EXITKILL as libc::c_long,
        )
    };
    if ret < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// A stopped child and all that come of it are traced from here on, and stop where they multiply and where they end. They are
/// killed if this program goes first.
pub fn follow_all(pid: i32) -> io::Result<()> {
    let options = libc::PTRACE_O_EXITKILL
        | libc::PTRACE_O_TRACEEXIT
        | libc::PTRACE_O_TRACEEXEC
        | libc::PTRACE_O_TRACEFORK
        | libc::PTRACE_O_TRACEVFORK
        | libc::PTRACE_O_TRACECLONE;
    // SAFETY: the request takes its options by value and no address.
    let ret = unsafe {
        libc::ptrace(
            libc::PTRACE_SETOPTIONS,
            pid,
            std::ptr::null_mut::<libc::c_void>(),
            libc::c_long::from(options),
        )
    };
    if ret < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Descendants whose parent ends become children of this process.
pub fn adopt_orphans() -> io::Result<()> {
    // SAFETY: the request takes a number and no address.
    check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) }).map(drop)
}

/// The next wait status of any child or traced process; `None` if there is none left.
pub fn wait_any() -> io::Result<Option<(i32, i32)>> {
    let mut status = 0;
    // SAFETY: `status` is a valid place for the result.
    match check(unsafe { libc::waitpid(-1, &mut status, libc::__WALL) }) {
        Ok(pid) => Ok(Some((pid, status))),
        Err(e) if e.raw_os_error() == Some(libc::ECHILD) => Ok(None),
        Err(e) => Err(e),
    }
}

/// What a wait status of a traced process says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traced {
    Ended,
    /// It is about to end and still has its memory.
    Ends,
    /// It multiplied or runs another program.
    Event,
    /// A signal is about to reach it.
    Signal(i32),
}

pub fn traced(status: i32) -> Traced {
    match stopped_by(status) {
        None => Traced::Ended,
        Some(signal) => match status >> 16 {
            0 => Traced::Signal(signal),
            libc::PTRACE_EVENT_EXIT => Traced::Ends,
            _ => Traced::Event,
        },
    }
}

/// Ends this process by a signal, if the signal can.
pub fn end_by(signal: i32) {
    // SAFETY: no pointers; the default action has no handler.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

macro_rules! mark {
    ($name:ident, $edge:literal, $doc:literal) => {
        #[doc = $doc]
        #[inline(never)]
        pub fn $name() {
            // SAFETY: `nopl disp32(%rax)` accesses no memory and changes no register and no flag.
            unsafe {
                std::arch::asm!(
                    concat!(".byte 0x0f, 0x1f, 0x80, 0x57, ", $edge, ", 0x50, 0x46"),
                    options(nostack, preserves_flags)
                );
            }
        }
    };
}

mark!(
    whole_begins,
    "0xb1",
    "Tells the simulator that phase `whole` ('W') begins."
);
mark!(
    whole_ends,
    "0xe1",
    "Tells the simulator that phase `whole` ends."
);

/// Let a stopped child go on, with this signal or without any (0).
pub fn resume(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: the request takes the signal by value and no address.
    let ret = unsafe {
        libc::ptrace(
            libc::PTRACE_CONT,
            pid,
            std::ptr::null_mut::<libc::c_void>(),
            libc::c_long::from(signal),
        )
    };
    if ret < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

pub fn set_nonblocking(fd: RawFd) -> io::Result<()> {
    // SAFETY: F_GETFL takes no third argument.
    let flags = check(unsafe { libc::fcntl(fd, libc::F_GETFL) })?;
    // SAFETY: F_SETFL takes an int.
    check(unsafe { libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) }).map(drop)
}

/// A descriptor that becomes readable when a child ends. SIGCHLD is blocked from here on, which
/// [`new_session`] undoes in each child.
pub fn child_events() -> io::Result<File> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set before anything reads it, and it outlives the calls.
    let fd = unsafe {
        check(libc::sigemptyset(set.as_mut_ptr()))?;
        check(libc::sigaddset(set.as_mut_ptr(), libc::SIGCHLD))?;
        check(libc::sigprocmask(
            libc::SIG_BLOCK,
            set.as_ptr(),
            std::ptr::null_mut(),
        ))?;
        check(libc::signalfd(
            -1,
            set.as_ptr(),
            libc::SFD_NONBLOCK | libc::SFD_CLOEXEC,
        ))?
    };
    // SAFETY: a new descriptor that nothing else owns.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// What to wait for on a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    Read,
    Write,
}

/// Which of `fds` are ready (or hung up) within `timeout_ms`.
pub fn wait_ready(fds: &[(RawFd, Want)], timeout_ms: i32) -> io::Result<Vec<bool>> {
    let events = |want| {
        if want == Want::Read {
            libc::POLLIN
        } else {
            libc::POLLOUT
        }
    };
    let mut list: Vec<libc::pollfd> = fds
        .iter()
        .map(|(fd, want)| libc::pollfd {
            fd: *fd,
            events: events(*want),
            revents: 0,
        })
        .collect();
    // SAFETY: pointer and length describe `list`.
    match check(unsafe { libc::poll(list.as_mut_ptr(), list.len() as libc::nfds_t, timeout_ms) }) {
        Ok(_) => Ok(list.iter().map(|p| p.revents != 0).collect()),
        Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(vec![false; fds.len()]),
        Err(e) => Err(e),
    }
}

/// A pseudo terminal: master and slave side.
pub fn open_pty() -> io::Result<(File, File)> {
    let master = File::options().read(true).write(true).open("/dev/ptmx")?;
    let (mut unlock, mut number): (libc::c_int, libc::c_uint) = (0, 0);
    // SAFETY: both requests take a pointer to an int that outlives the call.
    unsafe {
        check(libc::ioctl(
            master.as_raw_fd(),
            libc::TIOCSPTLCK,
            &mut unlock,
        ))?;
        check(libc::ioctl(master.as_raw_fd(), libc::TIOCGPTN, &mut number))?;
    }
    let slave = File::options()
        .read(true)
        .write(true)
        .open(format!("/dev/pts/{number}"))?;
    Ok((master, slave))
}

pub fn set_winsize(fd: RawFd, rows: u16, cols: u16) -> io::Result<()> {
    let size = libc::winsize {
        ws_row: rows,
        ws_col: cols,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCSWINSZ reads a winsize that outlives the call.
    check(unsafe { libc::ioctl(fd, libc::TIOCSWINSZ, &size) }).map(drop)
}

/// Start the command in a session of its own, with no signal blocked (a shell that inherits a
/// blocked SIGCHLD waits for ever); with `tty` its standard input becomes the controlling terminal.
pub fn new_session(command: &mut Command, tty: bool) {
    // SAFETY: all of them are async-signal-safe and touch no memory of the parent.
    unsafe {
        command.pre_exec(move || {
            let mut none = MaybeUninit::<libc::sigset_t>::uninit();
            check(libc::sigemptyset(none.as_mut_ptr()))?;
            check(libc::sigprocmask(
                libc::SIG_SETMASK,
                none.as_ptr(),
                std::ptr::null_mut(),
            ))?;
            check(libc::setsid())?;
            if tty {
                check(libc::ioctl(0, libc::TIOCSCTTY, 0))?;
            }
            Ok(())
        });
    }
}

/// Milliseconds since the kernel's clock started.
pub fn uptime_ms() -> u64 {
    let mut now = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: on success the call fills the timespec; on failure it is not read.
    let now = unsafe {
        if libc::clock_gettime(libc::CLOCK_BOOTTIME, now.as_mut_ptr()) != 0 {
            return 0;
        }
        now.assume_init()
    };
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}

/// Bring the loopback interface up; without networking this fails and nobody needs it.
pub fn loopback_up() -> io::Result<()> {
    // SAFETY: no pointers.
    let fd =
        check(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: a new descriptor that nothing else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: ifreq is plain data for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an ifreq that outlives the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request) }).map(drop)
}

/// Runs on each CPU that this process may use, one after the other.
pub fn visit_cpus() -> io::Result<()> {
    const SIZE: usize = std::mem::size_of::<libc::cpu_set_t>();
    // SAFETY: a cpu_set_t is plain bits, for which all zeroes is a value.
    let mut all: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: writes at most SIZE bytes into `all`.
    check(unsafe { libc::sched_getaffinity(0, SIZE, &mut all) })?;
    let run_on = |set: &libc::cpu_set_t| {
        // SAFETY: reads SIZE bytes of `set`.
        check(unsafe { libc::sched_setaffinity(0, SIZE, set) })
    };
    for cpu in 0..libc::CPU_SETSIZE as usize {
        // SAFETY: `cpu` is below CPU_SETSIZE.
        if !unsafe { libc::CPU_ISSET(cpu, &all) } {
            continue;
        }
        // SAFETY: as above.
        let mut one: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        // SAFETY: `cpu` is below CPU_SETSIZE.
        unsafe { libc::CPU_SET(cpu, &mut one) };
        run_on(&one)?;
    }
    run_on(&all).map(drop)
}

/// Writes a question into a file and reads the answer through the same descriptor.
pub fn ask(path: &str, question: &str) -> io::Result<String> {
    use std::io::{Read, Seek, Write};
    let mut file = File::options().read(true).write(true).open(path)?;
    file.write_all(question.as_bytes())?;
    file.rewind()?;
    let mut answer = String::new();
    file.read_to_string(&mut answer)?;
    Ok(answer)
}

/// prctl() of an option that takes numbers and no addresses.
pub fn prctl(option: i32, args: [u64; 4]) -> io::Result<i32> {
    let [a, b, c, d] = args;
    // SAFETY: the callers' options (PR_SET_PGTABLES, PR_GET_PGTABLES) take no pointer.
    check(unsafe { libc::prctl(option, a, b, c, d) })
}

/// A descriptor of process `pid`.
pub fn pidfd(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two numbers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = RawFd::try_from(fd).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    check(fd)?;
    // SAFETY: it is open, and ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// process_madvise() for `len` bytes at `addr` of another process, at most 1 GiB.
pub fn advise_other(pidfd: BorrowedFd<'_>, addr: u64, len: u64, advice: i32) -> io::Result<()> {
    let part = libc::iovec {
        iov_base: addr as *mut libc::c_void,
        iov_len: len as usize,
    };
    let (fd, one) = (pidfd.as_raw_fd(), 1usize);
    // SAFETY: one vector, which is read; the memory that it names is the other process's.
    let done = unsafe { libc::syscall(libc::SYS_process_madvise, fd, &part, one, advice, 0) };
    match done {
        ..0 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

pub fn uname() -> String {
    let mut name = MaybeUninit::<libc::utsname>::uninit();
    // SAFETY: uname fills the structure; its fields are NUL-terminated strings.
    unsafe {
        if libc::uname(name.as_mut_ptr()) != 0 {
            return String::new();
        }
        let name = name.assume_init();
        let text = |field: &[libc::c_char]| {
            CStr::from_ptr(field.as_ptr())
                .to_string_lossy()
                .into_owned()
        };
        format!(
            "{} {} {} {}",
            text(&name.sysname),
            text(&name.release),
            text(&name.version),
            text(&name.machine)
        )
    }
}

/// Anonymous private memory at exactly `addr`, refused if anything is there. It stays mapped
/// until the process ends.
pub fn map_at(addr: usize, len: usize) -> io::Result<usize> {
    // SAFETY: MAP_FIXED_NOREPLACE never replaces an existing mapping, so no Rust object is touched.
    let got = unsafe {
        libc::mmap(
            addr as *mut libc::c_void,
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE,
            -1,
            0,
        )
    };
    if got == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(got as usize)
}

/// Ask for huge pages on a range made by `map_at`.
pub fn want_huge(addr: usize, len: usize) -> io::Result<()> {
    // SAFETY: MADV_HUGEPAGE does not change the contents of the range.
    check(unsafe { libc::madvise(addr as *mut libc::c_void, len, libc::MADV_HUGEPAGE) }).map(drop)
}

/// Write one byte into memory made by `map_at`.
pub fn touch(addr: usize) {
    // SAFETY: `addr` lies in a live private mapping that no reference points into.
    unsafe { (addr as *mut u8).write_volatile(0x5a) }
}

/// What memory `Region::map` makes.
#[derive(Clone, Copy)]
pub enum Backing<'a> {
    Private,
    SharedAnonymous,
    /// A private mapping of the file from its beginning, read-only.
    FilePrivate(&'a File),
    FileShared(&'a File),
    /// Pages of 1 << n bytes from the pool of huge pages.
    HugePool(u32),
}

/// Protection of a `Region`.
#[derive(Clone, Copy)]
pub enum Access {
    None,
    Read,
    ReadExec,
    ReadWrite,
}

/// Advice for a part of a `Region`.
#[derive(Clone, Copy)]
pub enum Advice {
    HugePage,
    NoHugePage,
    DontNeed,
    PageOut,
}

/// Memory at a chosen address that is reached through this value only and is never borrowed. It
/// stays mapped when the value is dropped.
pub struct Region {
    addr: usize,
    len: usize,
}

impl Region {
    /// Refused if anything is mapped there.
    pub fn map(addr: usize, len: usize, backing: Backing<'_>) -> io::Result<Region> {
        let rw = libc::PROT_READ | libc::PROT_WRITE;
        let (prot, flags, fd) = match backing {
            Backing::Private => (rw, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1),
            Backing::SharedAnonymous => (rw, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1),
            Backing::FilePrivate(file) => (libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd()),
            Backing::FileShared(file) => (rw, libc::MAP_SHARED, file.as_raw_fd()),
            Backing::HugePool(shift) => {
                let size = (shift as libc::c_int) << libc::MAP_HUGE_SHIFT;
                let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
                (rw, anonymous | libc::MAP_HUGETLB | size, -1)
            }
        };
        let flags = flags | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
        // SAFETY: MAP_FIXED_NOREPLACE never replaces an existing mapping, so no Rust object is touched.
        let got = unsafe { libc::mmap(addr as *mut libc::c_void, len, prot, flags, fd, 0) };
        if got == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Region { addr, len })
    }

    /// The address `offset` bytes in; `size` bytes from there belong to the region.
    fn part(&self, offset: usize, size: usize) -> io::Result<*mut libc::c_void> {
        match offset.checked_add(size) {
            Some(end) if end <= self.len => Ok((self.addr + offset) as *mut libc::c_void),
            _ => Err(io::Error::from(io::ErrorKind::InvalidInput)),
        }
    }

    /// Write one byte. Where the protection forbids it, SIGSEGV ends the program.
    pub fn write(&self, offset: usize) -> io::Result<()> {
        let at = self.part(offset, 1)?.cast::<u8>();
        // SAFETY: a byte of this region, into which no reference points.
        unsafe { at.write_volatile(0x5a) };
        Ok(())
    }

    /// Read one byte, with the same warning.
    pub fn read(&self, offset: usize) -> io::Result<u8> {
        let at = self.part(offset, 1)?.cast::<u8>();
        // SAFETY: as above.
        Ok(unsafe { at.read_volatile() })
    }

    pub fn protect(&self, offset: usize, len: usize, access: Access) -> io::Result<()> {
        let prot = match access {
            Access::None => libc::PROT_NONE,
            Access::Read => libc::PROT_READ,
            Access::ReadExec => libc::PROT_READ | libc::PROT_EXEC,
            Access::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
        };
        let at = self.part(offset, len)?;
        // SAFETY: the range lies in this region, into which no reference points.
        check(unsafe { libc::mprotect(at, len, prot) }).map(drop)
    }

    pub fn advise(&self, offset: usize, len: usize, advice: Advice) -> io::Result<()> {
        let advice = match advice {
            Advice::HugePage => libc::MADV_HUGEPAGE,
            Advice::NoHugePage => libc::MADV_NOHUGEPAGE,
            Advice::DontNeed => libc::MADV_DONTNEED,
            Advice::PageOut => libc::MADV_PAGEOUT,
        };
        let at = self.part(offset, len)?;
        // SAFETY: at worst the contents change, and no reference points into them.
        check(unsafe { libc::madvise(at, len, advice) }).map(drop)
    }

    /// Keeps the pages of a part from being swapped out; those that are not there are filled in.
    pub fn lock(&self, offset: usize, len: usize) -> io::Result<()> {
        let at = self.part(offset, len)?;
        // SAFETY: no contents change.
        check(unsafe { libc::mlock(at, len) }).map(drop)
    }

    /// Leave a hole. Its bytes must not be touched any more: SIGSEGV ends the program.
    pub fn punch(&self, offset: usize, len: usize) -> io::Result<()> {
        let at = self.part(offset, len)?;
        // SAFETY: the range lies in this region, into which no reference points.
        check(unsafe { libc::munmap(at, len) }).map(drop)
    }

    /// Move this region's pages to where `target` is, which they replace.
    pub fn move_over(self, target: Region) -> io::Result<Region> {
        if self.len != target.len {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        // SAFETY: both ranges are regions that this call consumes.
        let got = unsafe {
            libc::mremap(
                self.addr as *mut libc::c_void,
                self.len,
                self.len,
                flags,
                target.addr as *mut libc::c_void,
            )
        };
        if got == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(target)
    }
}

/// `None` in the child. For programs with one thread.
pub fn fork() -> io::Result<Option<i32>> {
    // SAFETY: there is one thread, so the child finds no lock taken.
    let pid = check(unsafe { libc::fork() })?;
    Ok((pid != 0).then_some(pid))
}

/// Stay in user mode on this CPU for ever, with `token` in R12, where the host looks for it.
pub fn spin(token: u64) -> ! {
    // SAFETY: the loop touches no memory and no register.
    unsafe {
        std::arch::asm!("2:", "pause", "jmp 2b", in("r12") token, options(noreturn, nomem, nostack))
    }
}
