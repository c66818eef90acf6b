// SPDX-License-Identifier: MIT OR Apache-2.0
//! The QEMU command line: a pure function of what is to be run.

use std::path::{Path, PathBuf};

use fpt_init::proto::PORT;

use super::tables;
use fpt_geometry::Boot;
use fpt_kit::{Cmd, Fail, Result};

/// A QEMU to run: ours, or the distribution's.
#[derive(Debug, Clone)]
pub struct Program {
    /// The file.
    pub bin: PathBuf,
    /// For -L; the distribution's finds its own.
    pub datadir: Option<PathBuf>,
    /// Knows the CPU property `fpt`.
    pub fpt: bool,
    /// QEMU's release.
    pub version: String,
    /// Hash of everything that it was built from.
    pub hash: String,
}

/// Virtual CPUs that the kernel knows of: CONFIG_NR_CPUS of configs/base.config.
pub const MAX_CPUS: i64 = 8;

/// A host folder that the guest sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// The folder of the host.
    pub dir: PathBuf,
    /// The guest, whose processes are root, may write there.
    pub writable: bool,
    /// Further folders, by the tags `files1`, `files2`, ...; never writable.
    pub more: Vec<PathBuf>,
}

/// Everything that a guest is started with.
#[derive(Debug, Clone)]
pub struct Spec {
    /// The kernel's image.
    pub kernel: PathBuf,
    /// The root file system.
    pub initrd: PathBuf,
    /// `fpt=` and `fpt.policy=` of the kernel; `None` leaves them to the kernel's own default.
    pub mode: Option<Boot>,
    /// Virtual CPUs.
    pub smp: u32,
    /// Memory, as QEMU's `-m` takes it.
    pub mem: String,
    /// NUMA nodes: memory and CPUs are shared out evenly, each node is a socket.
    pub numa_nodes: u32,
    /// More words for the kernel's command line.
    pub append: Vec<String>,
    /// Host folder for /host.
    pub share: Option<Share>,
    /// TCG plugin with its arguments (`file=...,key=value`).
    pub plugin: Option<String>,
    /// Wait for gdb on this local port.
    pub gdb: Option<u16>,
    /// Virtual time that counts instructions, and the seed of what the guest takes for chance: the same
    /// seed gives the same counts. One thread.
    pub icount: Option<u32>,
    /// Guest memory in a file of QEMU's that others can read, too.
    pub shared_ram: bool,
    /// Disk images, /dev/vda on. What the guest writes to them is dropped when it ends.
    pub drives: Vec<PathBuf>,
}

/// What every guest's kernel is told. An oops is a panic and a panic ends QEMU at once, so that no
/// run goes on with a broken kernel. A fixed layout makes addresses and counts repeatable.
const KERNEL_ARGS: [&str; 6] = [
    "console=ttyS0",
    "panic=-1",
    "oops=panic",
    "nokaslr",
    "rdinit=/init",
    "hung_task_panic=0",
];

impl Spec {
    /// A guest with one CPU and 1 GiB, in the kernel's own mode, with nothing else.
    pub fn new(kernel: &Path, initrd: &Path) -> Spec {
        Spec {
            kernel: kernel.to_path_buf(),
            initrd: initrd.to_path_buf(),
            mode: None,
            smp: 1,
            mem: "1G".into(),
            numa_nodes: 1,
            append: Vec::new(),
            share: None,
            plugin: None,
            gdb: None,
            icount: None,
            shared_ram: false,
            drives: Vec::new(),
        }
    }

    fn cpus(&self) -> String {
        match self.numa_nodes {
            0 | 1 => self.smp.to_string(),
            nodes => format!("{},sockets={nodes}", self.smp),
        }
    }

    /// QEMU's words for more than one NUMA node.
    fn numa(&self) -> Vec<String> {
        let nodes = self.numa_nodes;
        if nodes < 2 {
            return Vec::new();
        }
        let mib = mebibytes(&self.mem).unwrap_or(0);
        // The first takes what does not divide.
        let size =
            |node| mib / u64::from(nodes) + if node == 0 { mib % u64::from(nodes) } else { 0 };
        let each = self.smp / nodes;
        let words = |node| {
            [
                "-object".to_string(),
                format!("memory-backend-ram,id=node{node},size={}M", size(node)),
                "-numa".to_string(),
                format!(
                    "node,nodeid={node},cpus={}-{},memdev=node{node}",
                    node * each,
                    (node + 1) * each - 1
                ),
            ]
        };
        (0..nodes).flat_map(words).collect()
    }

    /// The kernel's command line.
    pub fn kernel_args(&self) -> String {
        let mut args: Vec<String> = KERNEL_ARGS.iter().map(|a| a.to_string()).collect();
        if self.icount.is_none() {
            // The TSC is the host's, which a guest on a busy host cannot measure: it would take it
            // for many times too slow or too fast, and with it every time limit. The HPET's
            // rate is known. For the same reason no interrupt of the timer may come while the kernel
            // spins for a few ticks to see whether the timer works, and it would panic.
            args.extend(["clocksource=hpet", "tsc=unstable", "no_timer_check"].map(str::to_string));
        }
        args.extend(self.mode.map(tables::kernel_args));
        args.extend(self.append.iter().cloned());
        args.join(" ")
    }

    /// `sockets` is a short folder of this run's own: the control channel and the monitor connect there.
    pub fn command(&self, qemu: &Program, sockets: &Path) -> Cmd {
        let mut cmd = Cmd::new(&qemu.bin);
        if let Some(dir) = &qemu.datadir {
            cmd = cmd.arg("-L").arg(dir);
        }
        // With these features the kernel clears and copies memory by one `rep stosb` or `rep movsb`, which
        // TCG runs byte by byte. Older QEMUs know, and have, only the first two.
        let cpu = if qemu.fpt {
            "max,fpt=on,-erms,-fsrm,-fsrs,-fsrc,-fzrm"
        } else {
            "max,-erms,-fsrm"
        };
        cmd = cmd
            .args([
                "-name",
                "fpt",
                "-M",
                "q35,usb=off,smbus=off,sata=off,vmport=off,graphics=off",
            ])
            .args([
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
                "-no-reboot",
            ])
            .args([
                "-accel",
                if self.icount.is_some() {
                    "tcg,thread=single"
                } else {
                    "tcg,thread=multi"
                },
                "-cpu",
            ])
            .arg(cpu)
            .args(["-smp", &self.cpus(), "-m", &self.mem])
            .args(self.numa())
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(&self.initrd)
            .arg("-append")
            .arg(self.kernel_args())
            .args([
                "-chardev",
                "stdio,id=con,signal=off",
                "-serial",
                "chardev:con",
            ])
            .arg("-chardev")
            .arg(format!(
                "socket,id=ctl,path={}",
                comma(&sockets.join("ctl"))
            ))
            .args(["-device", "virtio-serial-pci,id=vser", "-device"])
            .arg(format!("virtserialport,bus=vser.0,chardev=ctl,name={PORT}"))
            .arg("-chardev")
            .arg(format!(
                "socket,id=mon,path={}",
                comma(&sockets.join("mon"))
            ))
            .args(["-mon", "chardev=mon,mode=control"]);
        if self.shared_ram {
            cmd = cmd
                .arg("-object")
                .arg(format!(
                    "memory-backend-memfd,id=ram,size={},share=on",
                    self.mem
                ))
                .args(["-machine", "memory-backend=ram"]);
        }
        if let Some(share) = &self.share {
            cmd = cmd
                .arg("-fsdev")
                .arg(format!(
                    "local,id=host,path={},security_model=none,multidevs=remap{}",
                    comma(&share.dir),
                    if share.writable { "" } else { ",readonly=on" }
                ))
                .args(["-device", "virtio-9p-pci,fsdev=host,mount_tag=host"]);
            for (n, dir) in (1..).zip(&share.more) {
                cmd = cmd
                    .arg("-fsdev")
                    .arg(format!(
                        "local,id=files{n},path={},security_model=none,multidevs=remap,readonly=on",
                        comma(dir)
                    ))
                    .arg("-device")
                    .arg(format!("virtio-9p-pci,fsdev=files{n},mount_tag=files{n}"));
            }
        }
        for (n, image) in self.drives.iter().enumerate() {
            cmd = cmd
                .arg("-drive")
                .arg(format!(
                    "file={},if=none,id=disk{n},format=raw,snapshot=on",
                    comma(image)
                ))
                .arg("-device")
                .arg(format!("virtio-blk-pci,drive=disk{n}"));
        }
        if let Some(seed) = self.icount {
            // RDRAND and the time of day decide where pages and stacks go: the same in each run.
            cmd = cmd
                .args(["-icount", "shift=0,sleep=off"])
                .args(["-seed", &seed.to_string()])
                .args(["-rtc", "base=2026-01-01T00:00:00,clock=vm"]);
        }
        if let Some(plugin) = &self.plugin {
            cmd = cmd.arg("-plugin").arg(plugin);
        }
        if let Some(port) = self.gdb {
            cmd = cmd
                .arg("-gdb")
                .arg(format!("tcp:127.0.0.1:{port}"))
                .arg("-S");
        }
        cmd
    }
}

/// QEMU's option parser takes a doubled comma for one.
pub fn comma(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

/// The number that `512M`, `4G` mean.
pub fn mebibytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(['M', 'G', 'm', 'g']);
    let n = digits.parse::<u64>().ok().filter(|n| *n > 0)?;
    let unit = if text.ends_with(['G', 'g']) { 1024 } else { 1 };
    (text.len() - digits.len() <= 1).then(|| n.saturating_mul(unit))
}

/// `512M`, `4G`: a size QEMU takes, refused before it is started.
pub fn check_size(text: &str) -> Result<()> {
    match mebibytes(text) {
        Some(mib) => {
            if mib < 128 {
                return Err(Fail::usage(
                    format!("--mem {text} is too small"),
                    "the guest needs 128M",
                    "give it more, e.g. --mem 1G",
                ));
            }
            Ok(())
        }
        _ => Err(Fail::usage(
            format!("--mem {text} is no memory size"),
            "it takes a number with M or G",
            "for example --mem 2G",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fpt_geometry::Mode;

    fn spec() -> Spec {
        Spec {
            mode: Some(Mode::L3L2.into()),
            smp: 2,
            mem: "1G".into(),
            append: vec!["kunit.enable=1".into()],
            share: Some(Share {
                dir: "/a,b".into(),
                writable: false,
                more: vec!["/c,d".into()],
            }),
            gdb: Some(1234),
            shared_ram: true,
            drives: vec!["/d,e.img".into()],
            ..Spec::new(Path::new("/k/vmlinux"), Path::new("/k/i.cpio"))
        }
    }

    fn program(fpt: bool) -> Program {
        Program {
            bin: "/q/qemu".into(),
            datadir: fpt.then(|| "/q/share".into()),
            fpt,
            version: String::new(),
            hash: String::new(),
        }
    }

    #[test]
    fn cpus_are_those_of_the_configuration() {
        let base = include_str!("../../../configs/base.config");
        assert!(base.contains(&format!("\nCONFIG_NR_CPUS={MAX_CPUS}\n")));
    }

    #[test]
    fn a_share_is_read_only_unless_asked_for() {
        let mut spec = spec();
        if let Some(share) = &mut spec.share {
            share.writable = true;
            // Further folders never are.
            share.more.clear();
        }
        let line = spec.command(&program(true), Path::new("/tmp/s")).quoted();
        assert!(line.contains("multidevs=remap ") && !line.contains("readonly"));
    }

    #[test]
    fn numa_nodes_share_memory_and_cpus() {
        let spec = Spec {
            smp: 4,
            mem: "3G".into(),
            numa_nodes: 2,
            shared_ram: false,
            ..spec()
        };
        let line = spec.command(&program(true), Path::new("/tmp/s")).quoted();
        for part in [
            "-smp 4,sockets=2 -m 3G",
            "memory-backend-ram,id=node1,size=1536M -numa node,nodeid=1,cpus=2-3,memdev=node1",
        ] {
            assert!(line.contains(part), "{part} not in {line}");
        }
    }

    #[test]
    fn line() {
        let line = spec().command(&program(true), Path::new("/tmp/s")).quoted();
        for part in [
            "/q/qemu -L /q/share",
            "-cpu max,fpt=on,-erms,-fsrm,-fsrs,-fsrc,-fzrm",
            "-smp 2 -m 1G",
            "-object memory-backend-memfd,id=ram,size=1G,share=on -machine memory-backend=ram",
            "fpt=l3l2 fpt.policy=eager kunit.enable=1'",
            "path=/a,,b,security_model=none,multidevs=remap,readonly=on",
            "local,id=files1,path=/c,,d,security_model=none,multidevs=remap,readonly=on",
            "mount_tag=files1",
            "-gdb tcp:127.0.0.1:1234 -S",
            "name=fpt.ctl",
            "-no-reboot",
            "file=/d,,e.img,if=none,id=disk0,format=raw,snapshot=on",
            "virtio-blk-pci,drive=disk0",
        ] {
            assert!(line.contains(part), "{part} not in {line}");
        }
        let line = spec()
            .command(&program(false), Path::new("/tmp/s"))
            .quoted();
        assert!(
            line.contains("-cpu max,-erms,-fsrm") && !line.contains("-L "),
            "{line}"
        );
    }

    #[test]
    fn sizes() {
        for good in ["512M", "4G", "1024", "128m"] {
            assert!(check_size(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "G",
            "0G",
            "12K",
            "-1G",
            "4GG",
            "64M",
            "1.5G",
            "99999999999999999999G",
        ] {
            assert!(check_size(bad).is_err(), "{bad}");
        }
    }
}
