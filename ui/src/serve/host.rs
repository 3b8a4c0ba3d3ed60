//! What the kernel says about this host and this process, under the names of Prometheus's node exporter and client
//! libraries, so that dashboards which exist work.
//!
//! A file that is missing or unreadable (an old kernel, a container) leaves its families out.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use isobar_block::MetricType::{Counter, Gauge};
use procfs::{Current, CurrentSI};

use super::exposition::Family;

/// Bytes of a sector in `/proc/diskstats`, whatever the device's own are.
const SECTOR_BYTES: f64 = 512.0;

/// Most block devices and network interfaces that are reported, so that a host with thousands of virtual ones does not
/// flood its own store.
const MAX_DEVICES: usize = 64;

/// Name of this host, or `localhost` if the kernel does not tell.
pub fn name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "localhost".to_owned() } else { name.trim().to_owned() }
}

/// CPU, memory, disks, file system of `data`, network, load and pressure.
pub fn families(data: &Path) -> Vec<Family> {
    let mut out = Vec::new();
    cpu(&mut out);
    memory(&mut out);
    disks(&mut out);
    file_system(data, &mut out);
    network(&mut out);
    load(&mut out);
    pressure(&mut out);
    out
}

fn cpu(out: &mut Vec<Family>) {
    let Ok(stats) = procfs::KernelStats::current() else { return };
    let ticks = procfs::ticks_per_second() as f64;
    let mut seconds = Family::new("node_cpu_seconds_total", "Seconds the CPUs spent in each mode", Counter);
    for (cpu, time) in stats.cpu_time.iter().enumerate() {
        let cpu = cpu.to_string();
        let modes = [
            ("user", Some(time.user)),
            ("nice", Some(time.nice)),
            ("system", Some(time.system)),
            ("idle", Some(time.idle)),
            ("iowait", time.iowait),
            ("irq", time.irq),
            ("softirq", time.softirq),
            ("steal", time.steal),
        ];
        for (mode, spent) in modes {
            if let Some(spent) = spent {
                seconds.push(&[("cpu", &cpu), ("mode", mode)], spent as f64 / ticks);
            }
        }
    }
    out.push(seconds);
    out.push(Family::single("node_context_switches_total", "Context switches", Counter, stats.ctxt as f64));
    out.push(Family::single("node_forks_total", "Forks", Counter, stats.processes as f64));
    out.push(Family::single("node_boot_time_seconds", "When the host was booted, Unix time", Gauge, stats.btime as f64));
    if let Some(running) = stats.procs_running {
        out.push(Family::single("node_procs_running", "Processes that could run", Gauge, f64::from(running)));
    }
    if let Some(blocked) = stats.procs_blocked {
        out.push(Family::single("node_procs_blocked", "Processes that wait for IO", Gauge, f64::from(blocked)));
    }
}

fn memory(out: &mut Vec<Family>) {
    let Ok(memory) = procfs::Meminfo::current() else { return };
    let fields = [
        ("MemTotal", Some(memory.mem_total)),
        ("MemFree", Some(memory.mem_free)),
        ("MemAvailable", memory.mem_available),
        ("Buffers", Some(memory.buffers)),
        ("Cached", Some(memory.cached)),
        ("Dirty", Some(memory.dirty)),
        ("SwapTotal", Some(memory.swap_total)),
        ("SwapFree", Some(memory.swap_free)),
    ];
    for (name, size_bytes) in fields {
        if let Some(size_bytes) = size_bytes {
            out.push(Family::single(
                &format!("node_memory_{name}_bytes"),
                &format!("Memory, {name} of /proc/meminfo"),
                Gauge,
                size_bytes as f64,
            ));
        }
    }
}

fn disks(out: &mut Vec<Family>) {
    let Ok(disks) = procfs::diskstats() else { return };
    let mut families = [
        Family::new("node_disk_read_bytes_total", "Bytes read from the device", Counter),
        Family::new("node_disk_written_bytes_total", "Bytes written to the device", Counter),
        Family::new("node_disk_reads_completed_total", "Reads completed", Counter),
        Family::new("node_disk_writes_completed_total", "Writes completed", Counter),
        Family::new("node_disk_io_time_seconds_total", "Seconds during which the device was busy", Counter),
        Family::new("node_disk_io_time_weighted_seconds_total", "Seconds of waiting, summed over the requests", Counter),
    ];
    let is_real = |name: &str| !["loop", "ram", "zram", "fd", "sr"].iter().any(|p| name.starts_with(p));
    for disk in disks.iter().filter(|d| is_real(&d.name) && d.reads + d.writes > 0).take(MAX_DEVICES) {
        let values = [
            disk.sectors_read as f64 * SECTOR_BYTES,
            disk.sectors_written as f64 * SECTOR_BYTES,
            disk.reads as f64,
            disk.writes as f64,
            disk.time_in_progress as f64 / 1000.0,
            disk.weighted_time_in_progress as f64 / 1000.0,
        ];
        for (family, value) in families.iter_mut().zip(values) {
            family.push(&[("device", &disk.name)], value);
        }
    }
    out.extend(families.into_iter().filter(|f| !f.points.is_empty()));
}

fn file_system(data: &Path, out: &mut Vec<Family>) {
    let Some((mount, device, kind)) = mount_of(data) else { return };
    let Some(space) = space(data) else { return };
    let labels = [("device", device.as_str()), ("mountpoint", mount.as_str()), ("fstype", kind.as_str())];
    for (name, help, value) in [
        ("node_filesystem_size_bytes", "Size of the file system that holds --data", space.size_bytes),
        ("node_filesystem_free_bytes", "Free bytes of the file system that holds --data", space.free_bytes),
        ("node_filesystem_avail_bytes", "Bytes that users may write in the file system that holds --data", space.available_bytes),
    ] {
        let mut family = Family::new(name, help, Gauge);
        family.push(&labels, value as f64);
        out.push(family);
    }
}

struct Space {
    size_bytes: u64,
    free_bytes: u64,
    available_bytes: u64,
}

fn space(path: &Path) -> Option<Space> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    let mut stats = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the path ends in NUL and the struct is written before it is read, which a return of 0 promises.
    let stats = unsafe {
        if libc::statvfs(path.as_ptr(), stats.as_mut_ptr()) != 0 {
            return None;
        }
        stats.assume_init()
    };
    let unit = stats.f_frsize;
    Some(Space { size_bytes: stats.f_blocks * unit, free_bytes: stats.f_bfree * unit, available_bytes: stats.f_bavail * unit })
}

/// The mount that holds a path: the one with the longest mount point before it.
fn mount_of(path: &Path) -> Option<(String, String, String)> {
    let path = path.canonicalize().ok()?;
    procfs::mounts()
        .ok()?
        .into_iter()
        .filter(|m| path.starts_with(&m.fs_file))
        .max_by_key(|m| m.fs_file.len())
        .map(|m| (m.fs_file, m.fs_spec, m.fs_vfstype))
}

fn network(out: &mut Vec<Family>) {
    let Ok(devices) = procfs::net::dev_status() else { return };
    let mut names: Vec<_> = devices.keys().filter(|n| !n.starts_with("veth")).collect();
    names.sort();
    let mut families = [
        Family::new("node_network_receive_bytes_total", "Bytes received", Counter),
        Family::new("node_network_transmit_bytes_total", "Bytes sent", Counter),
        Family::new("node_network_receive_errs_total", "Bad packets received", Counter),
        Family::new("node_network_transmit_errs_total", "Errors while sending", Counter),
    ];
    for name in names.into_iter().take(MAX_DEVICES) {
        let device = &devices[name];
        for (family, value) in families.iter_mut().zip([device.recv_bytes, device.sent_bytes, device.recv_errs, device.sent_errs]) {
            family.push(&[("device", name)], value as f64);
        }
    }
    out.extend(families.into_iter().filter(|f| !f.points.is_empty()));
}

fn load(out: &mut Vec<Family>) {
    let Ok(load) = procfs::LoadAverage::current() else { return };
    for (name, help, value) in [
        ("node_load1", "Load average of 1 minute", load.one),
        ("node_load5", "Load average of 5 minutes", load.five),
        ("node_load15", "Load average of 15 minutes", load.fifteen),
    ] {
        out.push(Family::single(name, help, Gauge, f64::from(value)));
    }
}

/// Pressure stall information; kernels before 4.20 and some containers have none.
fn pressure(out: &mut Vec<Family>) {
    let mut push = |name: &str, help: &str, micros: u64| out.push(Family::single(name, help, Counter, micros as f64 / 1e6));
    if let Ok(cpu) = procfs::CpuPressure::current() {
        push("node_pressure_cpu_waiting_seconds_total", "Seconds during which some task waited for a CPU", cpu.some.total);
    }
    if let Ok(memory) = procfs::MemoryPressure::current() {
        push("node_pressure_memory_waiting_seconds_total", "Seconds during which some task waited for memory", memory.some.total);
        push("node_pressure_memory_stalled_seconds_total", "Seconds during which all tasks waited for memory", memory.full.total);
    }
    if let Ok(io) = procfs::IoPressure::current() {
        push("node_pressure_io_waiting_seconds_total", "Seconds during which some task waited for IO", io.some.total);
        push("node_pressure_io_stalled_seconds_total", "Seconds during which all tasks waited for IO", io.full.total);
    }
}

/// This process, under the names of Prometheus's client libraries.
pub fn process_families() -> Vec<Family> {
    let mut out = Vec::new();
    let Ok(process) = procfs::process::Process::myself() else { return out };
    if let Ok(stat) = process.stat() {
        let ticks = procfs::ticks_per_second() as f64;
        out.push(Family::single(
            "process_cpu_seconds_total",
            "User and system CPU time",
            Counter,
            (stat.utime + stat.stime) as f64 / ticks,
        ));
        out.push(Family::single("process_virtual_memory_bytes", "Virtual memory", Gauge, stat.vsize as f64));
        out.push(Family::single("process_resident_memory_bytes", "Resident memory", Gauge, stat.rss as f64 * procfs::page_size() as f64));
        out.push(Family::single("process_threads", "Threads", Gauge, stat.num_threads as f64));
        if let Ok(boot) = procfs::boot_time_secs() {
            let started = boot as f64 + stat.starttime as f64 / ticks;
            out.push(Family::single("process_start_time_seconds", "When the process started, Unix time", Gauge, started));
        }
    }
    if let Ok(open) = process.fd_count() {
        out.push(Family::single("process_open_fds", "Open file descriptors", Gauge, open as f64));
    }
    if let Ok(limits) = process.limits()
        && let procfs::process::LimitValue::Value(max) = limits.max_open_files.soft_limit
    {
        out.push(Family::single("process_max_fds", "Most file descriptors that may be open", Gauge, max as f64));
    }
    if let Ok(io) = process.io() {
        out.push(Family::single(
            "process_disk_read_bytes_total",
            "Bytes this process caused to be read from disks",
            Counter,
            io.read_bytes as f64,
        ));
        out.push(Family::single(
            "process_disk_written_bytes_total",
            "Bytes this process caused to be written to disks",
            Counter,
            io.write_bytes as f64,
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_this_host_and_this_process() {
        let families = families(&std::env::temp_dir());
        for name in ["node_cpu_seconds_total", "node_memory_MemTotal_bytes", "node_load1", "node_filesystem_avail_bytes"] {
            let family = families.iter().find(|f| f.name == name).unwrap_or_else(|| panic!("{name} is missing"));
            assert!(family.points.iter().all(|p| p.value.is_finite() && p.value >= 0.0), "{family:?}");
        }
        let resident = process_families().into_iter().find(|f| f.name == "process_resident_memory_bytes").expect("is there");
        assert!(resident.points[0].value > 1e5, "{resident:?}");
    }
}
