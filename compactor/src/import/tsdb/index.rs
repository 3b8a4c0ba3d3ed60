//! Reads `index`, version 2: symbols, series and where their chunks are. Postings and label tables are not needed. Source:
//! `tsdb/docs/format/index.md` of Prometheus.
//!
//! A series takes about 8 bytes for each label in memory; where its chunks are is read again when they are needed.

use std::cmp::Ordering;

use bytes::Bytes;
use isobar_block::Labels;
use isobar_block::labels::METRIC_NAME;

use super::file::{File, take_uvarint, take_varint};
use crate::Result;

const MAGIC: u32 = 0xbaaa_d700;
const VERSION: u8 = 2;
const HEADER_BYTES: u64 = 5;
const TOC_BYTES: u64 = 6 * 8 + 4;
/// Series begin at multiples of this; a series is known by its place divided by it.
const ALIGNMENT_BYTES: u64 = 16;
/// So much of the series is read at a time.
const SCAN_BYTES: u64 = 4 << 20;
/// The longest entry of a series that is read: a hundred million samples have shorter ones.
const MAX_SERIES_BYTES: u64 = 256 << 20;

/// The opened index.
pub(super) struct Index {
    file: File,
    symbols: Symbols,
    series_start: u64,
    series_end: u64,
    /// Labels that are added to each series, as numbers of [`Symbols`], ascending.
    added: Vec<[u32; 2]>,
}

/// Series in Isobar's order.
#[derive(Default)]
pub(super) struct Series {
    entries: Vec<Entry>,
    /// Pairs of name and value of all series, as numbers whose order is that of the texts.
    labels: Vec<u32>,
}

struct Entry {
    offset: u64,
    size: u32,
    labels_len: u32,
    labels_start: usize,
    /// Number of the metric name; 0 if there is none, else one more.
    metric: u32,
}

/// Where a chunk is, and the times that it says it has.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChunkRef {
    pub min_ms: i64,
    pub max_ms: i64,
    /// Number of the file in `chunks`, from 0.
    pub segment: u32,
    pub offset: u32,
}

/// All texts. A number of a text is its rank.
struct Symbols {
    texts: Bytes,
    /// Start and end of each text, by rank.
    places: Vec<(u32, u32)>,
    /// Rank of each symbol of the file.
    ranks: Vec<u32>,
    /// Texts that are not in the file: places beyond the end of `texts` point here.
    more: String,
}

impl Symbols {
    fn get(&self, rank: u32) -> &str {
        let (start, end) = self.places[rank as usize];
        let in_file = self.texts.len() as u32;
        if start >= in_file {
            return &self.more[(start - in_file) as usize..(end - in_file) as usize];
        }
        // SAFETY: every text of the file was checked when the table was read.
        unsafe { std::str::from_utf8_unchecked(&self.texts[start as usize..end as usize]) }
    }
}

impl Index {
    /// Reads the table of contents and the symbols.
    pub async fn open(file: File, added: &[(String, String)]) -> Result<Self> {
        if file.size() < HEADER_BYTES + TOC_BYTES {
            return Err(file.wrong(0, format!("cut off: an index of {} bytes", file.size())));
        }
        let header = file.read(0..HEADER_BYTES).await?;
        if header[..4] != MAGIC.to_be_bytes() {
            return Err(file.wrong(0, "this is no index of Prometheus"));
        }
        if header[4] != VERSION {
            return Err(
                file.wrong(4, format!("index version {} is not read, only {VERSION}; let a newer Prometheus compact it", header[4]))
            );
        }
        let toc_at = file.size() - TOC_BYTES;
        let toc = file.read(toc_at..file.size()).await?;
        let (fields, _) = file.checked(toc_at, &toc)?.as_chunks::<8>();
        let fields: Vec<u64> = fields.iter().map(|f| u64::from_be_bytes(*f)).collect();
        let (symbols_at, series_start) = (fields[0], fields[1]);
        let series_end = fields.iter().copied().filter(|f| *f > series_start).min().unwrap_or(toc_at).min(toc_at);
        if symbols_at < HEADER_BYTES || series_start > toc_at || symbols_at + 8 > toc_at {
            return Err(file.wrong(toc_at, "the table of contents points beyond the file"));
        }
        let (symbols, added) = symbols(&file, symbols_at, toc_at, added).await?;
        Ok(Self { file, symbols, series_start, series_end, added })
    }

    /// Reads all series and brings them into Isobar's order.
    pub async fn series(&self) -> Result<Series> {
        let mut all = Series::default();
        let name = self.rank_of(METRIC_NAME);
        let (mut at, mut window, mut window_start) = (self.series_start, Bytes::new(), self.series_start);
        loop {
            at = at.next_multiple_of(ALIGNMENT_BYTES);
            if at >= self.series_end {
                break;
            }
            let mut need = 16.min(self.series_end - at);
            let (size, content) = loop {
                if at + need > window_start + window.len() as u64 {
                    let end = self.series_end.min(at + need.max(SCAN_BYTES));
                    (window, window_start) = (self.file.read(at..end).await?, at);
                }
                let bytes = &window[(at - window_start) as usize..];
                let mut rest = bytes;
                let len = take_uvarint(&mut rest).ok_or_else(|| self.file.wrong(at, "the length of a series is cut off"))?;
                let size = (bytes.len() - rest.len()) as u64 + len.saturating_add(4);
                if len == 0 || size > MAX_SERIES_BYTES || at + size > self.series_end {
                    return Err(self.file.wrong(at, format!("a series of {len} bytes does not fit into the index")));
                }
                if size <= bytes.len() as u64 {
                    break (size, self.file.checked(at, &rest[..len as usize + 4])?);
                }
                need = size;
            };
            self.add(&mut all, at, size as u32, content, name)?;
            at += size;
        }
        let labels = &all.labels;
        let of = |e: &Entry| &labels[e.labels_start..e.labels_start + e.labels_len as usize];
        let order = |a: &Entry, b: &Entry| a.metric.cmp(&b.metric).then_with(|| of(a).cmp(of(b))).then(a.offset.cmp(&b.offset));
        if !all.entries.is_sorted_by(|a, b| order(a, b) != Ordering::Greater) {
            all.entries.sort_unstable_by(order);
        }
        Ok(all)
    }

    fn rank_of(&self, text: &str) -> Option<u32> {
        let rank = self.symbols.places.partition_point(|(start, end)| self.text((*start, *end)) < text);
        (rank < self.symbols.places.len() && self.symbols.get(rank as u32) == text).then_some(rank as u32)
    }

    fn text(&self, (start, end): (u32, u32)) -> &str {
        let in_file = self.symbols.texts.len() as u32;
        if start >= in_file {
            return &self.symbols.more[(start - in_file) as usize..(end - in_file) as usize];
        }
        // SAFETY: as in `Symbols::get`.
        unsafe { std::str::from_utf8_unchecked(&self.symbols.texts[start as usize..end as usize]) }
    }

    fn add(&self, all: &mut Series, at: u64, size: u32, content: &[u8], name: Option<u32>) -> Result<()> {
        let wrong = |reason: &str| self.file.wrong(at, reason);
        let mut rest = content;
        let labels_start = all.labels.len();
        let number = take_uvarint(&mut rest).ok_or_else(|| wrong("a series is cut off"))?;
        if number > content.len() as u64 {
            return Err(wrong("a series has more labels than bytes"));
        }
        let mut added = self.added.iter().peekable();
        for _ in 0..number {
            let mut symbol = || {
                let symbol = take_uvarint(&mut rest).ok_or_else(|| wrong("a label is cut off"))?;
                self.symbols.ranks.get(symbol as usize).copied().ok_or_else(|| wrong("a label points beyond the symbols"))
            };
            let pair = [symbol()?, symbol()?];
            while let Some(before) = added.next_if(|a| a[0] < pair[0]) {
                all.labels.extend(before);
            }
            // An added label takes the place of the series' own, as external labels do in Thanos.
            if added.peek().is_none_or(|a| a[0] != pair[0]) {
                all.labels.extend(pair);
            }
        }
        all.labels.extend(added.flatten());
        let labels = &all.labels[labels_start..];
        if !labels.as_chunks::<2>().0.is_sorted_by(|a, b| a[0] < b[0]) {
            return Err(wrong("the labels of a series are not in order"));
        }
        let metric = labels.as_chunks::<2>().0.iter().find(|pair| Some(pair[0]) == name).map_or(0, |pair| pair[1] + 1);
        let labels_len = labels.len() as u32;
        all.entries.push(Entry { offset: at, size, labels_start, labels_len, metric });
        Ok(())
    }

    /// Labels of a series.
    pub fn labels(&self, series: &Series, i: usize) -> Result<Labels> {
        let entry = &series.entries[i];
        let pairs = series.of(i).as_chunks::<2>().0.iter().map(|[n, v]| (self.symbols.get(*n), self.symbols.get(*v)));
        Labels::from_pairs(pairs).map_err(|e| self.file.wrong(entry.offset, e))
    }

    /// Where the chunks of some series are, in the order of `rows`.
    pub async fn chunks(&self, series: &Series, rows: std::ops::Range<usize>) -> Result<Vec<Vec<ChunkRef>>> {
        let mut offsets: Vec<u64> = series.entries[rows.clone()].iter().map(|e| e.offset).collect();
        offsets.sort_unstable();
        let longest = series.entries[rows.clone()].iter().map(|e| e.size).max().unwrap_or(0);
        let parts = self.file.read_at(&offsets, u64::from(longest).min(SCAN_BYTES)).await?;
        let mut out = Vec::with_capacity(rows.len());
        for entry in &series.entries[rows] {
            let long;
            let mut bytes = parts.from(entry.offset);
            if bytes.len() < entry.size as usize {
                long = self.file.read(entry.offset..entry.offset + u64::from(entry.size)).await?;
                bytes = &long;
            }
            out.push(self.chunk_refs(entry, &bytes[..entry.size as usize])?);
        }
        Ok(out)
    }

    fn chunk_refs(&self, entry: &Entry, mut bytes: &[u8]) -> Result<Vec<ChunkRef>> {
        let cut_off = || self.file.wrong(entry.offset, "the chunks of a series are cut off");
        take_uvarint(&mut bytes).ok_or_else(cut_off)?;
        let mut rest = self.file.checked(entry.offset, bytes)?;
        for _ in 0..2 * take_uvarint(&mut rest).ok_or_else(cut_off)? {
            take_uvarint(&mut rest).ok_or_else(cut_off)?;
        }
        let number = take_uvarint(&mut rest).ok_or_else(cut_off)?;
        let mut out = Vec::with_capacity((number as usize).min(rest.len()));
        let (mut last_ms, mut place) = (0i64, 0i64);
        for i in 0..number {
            let start = if i == 0 { take_varint(&mut rest) } else { take_uvarint(&mut rest).map(|d| last_ms.wrapping_add(d as i64)) };
            let min_ms = start.ok_or_else(cut_off)?;
            let max_ms = min_ms.wrapping_add(take_uvarint(&mut rest).ok_or_else(cut_off)? as i64);
            let step = if i == 0 { take_uvarint(&mut rest).map(|p| p as i64) } else { take_varint(&mut rest) };
            place = place.wrapping_add(step.ok_or_else(cut_off)?);
            last_ms = max_ms;
            out.push(ChunkRef { min_ms, max_ms, segment: (place as u64 >> 32) as u32, offset: place as u32 });
        }
        Ok(out)
    }
}

impl Series {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// The labels of a series, to be compared.
    pub fn of(&self, i: usize) -> &[u32] {
        let entry = &self.entries[i];
        &self.labels[entry.labels_start..entry.labels_start + entry.labels_len as usize]
    }

    /// What tombstones call a series.
    pub fn number(&self, i: usize) -> u64 {
        self.entries[i].offset / ALIGNMENT_BYTES
    }
}

/// Reads the symbols, and ranks them together with those of the labels that are added.
async fn symbols(file: &File, at: u64, end: u64, added: &[(String, String)]) -> Result<(Symbols, Vec<[u32; 2]>)> {
    let len = file.read(at..at + 4).await?;
    let len = u64::from(u32::from_be_bytes([len[0], len[1], len[2], len[3]]));
    if at + 4 + len + 4 > end {
        return Err(file.wrong(at, format!("symbols of {len} bytes do not fit into the index")));
    }
    let bytes = file.read(at + 4..at + 4 + len + 4).await?;
    let content = file.checked(at + 4, &bytes)?;
    let texts = bytes.slice(..content.len());
    let (number, mut rest) = content.split_first_chunk::<4>().ok_or_else(|| file.wrong(at, "the symbols are cut off"))?;
    let number = u32::from_be_bytes(*number);
    let mut places = Vec::with_capacity((number as usize).min(content.len()));
    for _ in 0..number {
        let place = at + 4 + (content.len() - rest.len()) as u64;
        let text = take_uvarint(&mut rest).and_then(|len| rest.split_at_checked(usize::try_from(len).ok()?));
        let (text, tail) = text.ok_or_else(|| file.wrong(place, "a symbol is cut off"))?;
        std::str::from_utf8(text).map_err(|_| file.wrong(place, "a symbol is not UTF-8"))?;
        let end = content.len() - tail.len();
        places.push(((end - text.len()) as u32, end as u32));
        rest = tail;
    }
    let more: String = added.iter().flat_map(|(n, v)| [n.as_str(), v.as_str()]).collect();
    let mut next = content.len();
    for text in added.iter().flat_map(|(n, v)| [n, v]) {
        let start = next;
        next += text.len();
        let end = u32::try_from(next).map_err(|_| file.wrong(at, "the symbols have more than 4 GiB"))?;
        places.push((start as u32, end));
    }
    let unranked = Symbols { texts, places, ranks: Vec::new(), more };
    let mut order: Vec<u32> = (0..unranked.places.len() as u32).collect();
    order.sort_by(|a, b| unranked.get(*a).cmp(unranked.get(*b)));
    let mut ranks = vec![0u32; order.len()];
    let mut ranked = Vec::with_capacity(order.len());
    for (i, symbol) in order.iter().enumerate() {
        // Equal texts have one rank.
        if i == 0 || unranked.get(order[i - 1]) != unranked.get(*symbol) {
            ranked.push(unranked.places[*symbol as usize]);
        }
        ranks[*symbol as usize] = ranked.len() as u32 - 1;
    }
    let mut added: Vec<[u32; 2]> = ranks[number as usize..].as_chunks::<2>().0.to_vec();
    added.sort_unstable();
    ranks.truncate(number as usize);
    Ok((Symbols { places: ranked, ranks, ..unranked }, added))
}
