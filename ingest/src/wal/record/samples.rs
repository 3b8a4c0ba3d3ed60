//! Float samples in records: per sample a control byte, where needed a step of the series number and one of the timestamp, and
//! the value's bytes without the zero bytes at its low end. They can be read in runs, without those that stand before.

use isobar_block::TenantId;

use super::{Kind, Malformed, Reader, push_bytes, push_frame};

// The control byte of a float sample.
const VALUE_BYTES_MASK: u8 = 0x0f;
const SAME_TIME: u8 = 0x10;
const SERIES_MASK: u8 = 0x60;
const SERIES_SAME: u8 = 0x00;
const SERIES_NEXT: u8 = 0x20;
const SERIES_DELTA: u8 = 0x40;

/// Float samples of one request, being collected: per sample a control byte, where needed a step of the series number and one
/// of the timestamp, and the value's bytes without the zero bytes at its low end.
#[derive(Debug, Default)]
pub struct SampleWriter {
    /// Longer than what is used, so that an entry is written where it will stay.
    entries: Vec<u8>,
    used: usize,
    series: u32,
    timestamp_ms: i64,
}

/// Control byte, two numbers, value.
const MAX_ENTRY_BYTES: usize = 1 + 10 + 10 + 8;

impl SampleWriter {
    /// Adds one sample.
    #[inline]
    pub fn push(&mut self, series: u32, timestamp_ms: i64, value: f64) {
        if self.entries.len() < self.used + MAX_ENTRY_BYTES {
            self.entries.resize((2 * self.entries.len()).max(4096), 0);
        }
        let entry: &mut [u8; MAX_ENTRY_BYTES] = self.entries[self.used..].first_chunk_mut().expect("it was made long enough");
        let bits = value.to_bits();
        let value_bytes = 8 - (bits.trailing_zeros() / 8) as usize;
        let mut len = 1;
        let mut control = value_bytes as u8;
        if series == self.series {
            control |= SERIES_SAME;
        } else if series == self.series.wrapping_add(1) {
            control |= SERIES_NEXT;
        } else {
            control |= SERIES_DELTA;
            let step = i64::from(series) - i64::from(self.series);
            len += put_varint(&mut entry[len..], ((step << 1) ^ (step >> 63)) as u64);
        }
        if timestamp_ms == self.timestamp_ms {
            control |= SAME_TIME;
        } else {
            let step = timestamp_ms.wrapping_sub(self.timestamp_ms);
            len += put_varint(&mut entry[len..], ((step << 1) ^ (step >> 63)) as u64);
        }
        entry[0] = control;
        entry[len..len + 8].copy_from_slice(&bits.to_be_bytes());
        self.used += len + value_bytes;
        self.series = series;
        self.timestamp_ms = timestamp_ms;
    }

    /// Appends the record, if it has any content, and empties the collection.
    pub fn finish(&mut self, tenant: &TenantId, out: &mut Vec<u8>) {
        if self.used > 0 {
            push_frame(out, Kind::Samples, |out| {
                push_bytes(out, tenant.as_str().as_bytes());
                out.extend_from_slice(&self.entries[..self.used]);
            });
        }
        (self.used, self.series, self.timestamp_ms) = (0, 0, 0);
    }
}

#[inline]
fn put_varint(out: &mut [u8], mut n: u64) -> usize {
    let mut len = 0;
    while n >= 0x80 {
        out[len] = n as u8 | 0x80;
        n >>= 7;
        len += 1;
    }
    out[len] = n as u8;
    len + 1
}

/// Reads the entries of a record of samples one by one.
struct SampleReader<'a> {
    rest: Reader<'a>,
    series: u32,
    timestamp_ms: i64,
}

impl SampleReader<'_> {
    /// Reads what stands before the value, and returns how many bytes the value has.
    #[inline]
    fn step(&mut self) -> Result<usize, Malformed> {
        let control = self.rest.byte()?;
        match control & SERIES_MASK {
            SERIES_SAME => {}
            SERIES_NEXT => self.series = self.series.wrapping_add(1),
            SERIES_DELTA => {
                let number = i64::from(self.series).wrapping_add(self.rest.zigzag()?);
                self.series = u32::try_from(number).map_err(|_| Malformed("a series number is too big"))?;
            }
            _ => return Err(Malformed("a control byte is not known")),
        }
        if control & SAME_TIME == 0 {
            self.timestamp_ms = self.timestamp_ms.wrapping_add(self.rest.zigzag()?);
        }
        let value_bytes = usize::from(control & VALUE_BYTES_MASK);
        if value_bytes > 8 || value_bytes > self.rest.0.len() {
            return Err(Malformed("a sample is cut off"));
        }
        Ok(value_bytes)
    }

    #[inline]
    fn value(&mut self, value_bytes: usize) -> f64 {
        let bytes = self.rest.0;
        let bits = match bytes.first_chunk::<8>() {
            // The shift drops what belongs to the next sample; one of 64 is not defined, so zero bytes are a case of their own.
            Some(chunk) if value_bytes > 0 => u64::from_be_bytes(*chunk) & (u64::MAX << (64 - 8 * value_bytes as u32)),
            _ => {
                let mut first = [0; 8];
                first[..value_bytes].copy_from_slice(&bytes[..value_bytes]);
                u64::from_be_bytes(first)
            }
        };
        self.rest.0 = &bytes[value_bytes..];
        f64::from_bits(bits)
    }
}

/// Samples of series with near numbers that stand together in a record, and what is needed to read them without those before.
#[derive(Clone, Copy, Debug)]
pub struct SampleRun {
    /// Where they begin in the entries of the record.
    pub offset: u64,
    /// Timestamp before the first one.
    timestamp_ms: i64,
    /// Series number before the first one.
    series: u32,
    /// How many they are.
    pub samples: u32,
}

/// Checks all samples of a record and calls `each` with every run of series whose numbers divided by `group_series` are the
/// same, and with that quotient. Returns the first and the last timestamp; the first is greater if there is no sample.
pub fn scan_samples(entries: &[u8], group_series: u32, mut each: impl FnMut(usize, SampleRun)) -> Result<(i64, i64), Malformed> {
    let mut reader = SampleReader { rest: Reader(entries), series: 0, timestamp_ms: 0 };
    let (mut first_ms, mut last_ms) = (i64::MAX, i64::MIN);
    let mut group = u32::MAX;
    let mut run = SampleRun { offset: 0, timestamp_ms: 0, series: 0, samples: 0 };
    let scanned = loop {
        if reader.rest.0.is_empty() {
            break Ok((first_ms, last_ms));
        }
        let (offset, series, timestamp_ms) = (entries.len() - reader.rest.0.len(), reader.series, reader.timestamp_ms);
        match reader.step() {
            Ok(value_bytes) => reader.rest.0 = &reader.rest.0[value_bytes..],
            Err(malformed) => break Err(malformed),
        }
        if reader.series / group_series != group {
            if run.samples > 0 {
                each(group as usize, run);
            }
            group = reader.series / group_series;
            run = SampleRun { offset: offset as u64, timestamp_ms, series, samples: 0 };
        }
        run.samples += 1;
        first_ms = first_ms.min(reader.timestamp_ms);
        last_ms = last_ms.max(reader.timestamp_ms);
    };
    if run.samples > 0 {
        each(group as usize, run);
    }
    scanned
}

/// Calls `each` with series number, timestamp and value of every sample of a run; `bytes` begins at its offset.
pub fn read_run(bytes: &[u8], run: &SampleRun, mut each: impl FnMut(u32, i64, f64)) -> Result<(), Malformed> {
    let mut reader = SampleReader { rest: Reader(bytes), series: run.series, timestamp_ms: run.timestamp_ms };
    for _ in 0..run.samples {
        let value_bytes = reader.step()?;
        let value = reader.value(value_bytes);
        each(reader.series, reader.timestamp_ms, value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{parse_frame, read_tenant};
    use super::*;

    #[test]
    fn samples_come_back_bit_for_bit() {
        let tenant = TenantId::default();
        let values =
            [0.0, -0.0, 1.0, 0.1, f64::NAN, f64::INFINITY, f64::from_bits(1), f64::from_bits(0x7ff0_0000_0000_0002), 12345.0, -1e300];
        let samples: Vec<_> = values
            .iter()
            .enumerate()
            .map(|(i, v)| ([0, 0, 1, 7, 7, 3, u32::MAX, 0, 5, 6][i], [5, 5, i64::MIN, i64::MAX, 0, 1, 2, 2, 2, -7][i], *v))
            .collect();
        let mut writer = SampleWriter::default();
        let mut out = Vec::new();
        for _ in 0..2 {
            out.clear();
            for (series, t, v) in &samples {
                writer.push(*series, *t, *v);
            }
            writer.finish(&tenant, &mut out);
        }
        let (frame, whole) = parse_frame(&out).expect("a frame");
        assert_eq!((frame.kind, whole), (Kind::Samples, out.len()));
        let (name, entries) = read_tenant(frame.payload).expect("reads");
        assert_eq!(name, "default");
        let mut runs = Vec::new();
        assert_eq!(scan_samples(entries, 4, |group, run| runs.push((group, run))), Ok((i64::MIN, i64::MAX)));
        let mut back = Vec::new();
        for (group, run) in &runs {
            read_run(&entries[run.offset as usize..], run, |s, t, v| {
                assert_eq!(s as usize / 4, *group);
                back.push((s, t, v.to_bits()));
            })
            .expect("reads");
        }
        assert_eq!(runs.iter().map(|(_, run)| run.samples).collect::<Vec<_>>(), [3, 2, 1, 1, 1, 2]);
        assert_eq!(back, samples.iter().map(|(s, t, v)| (*s, *t, v.to_bits())).collect::<Vec<_>>());
    }
}
