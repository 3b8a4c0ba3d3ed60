//! Writes a block: series come in order, each with its samples, and leave as complete files in the object store.
//!
//! Nothing of a block is visible before its [`BlockMeta`] is committed to the catalog, which the caller does. Memory grows with
//! the encoded size ([`BlockWriter::encoded_bytes`]), so that whoever writes big blocks has to split them.

mod bytes;
mod chunks;
mod files;
pub(crate) mod rollup;
mod series;
mod upload;

use object_store::ObjectStore;

use crate::labels::Labels;
use crate::meta::{BlockId, BlockMeta, WriterMark};
use crate::{Error, Exemplar, Metadata, Result, SampleBuf, TenantId};

pub use chunks::EncodedChunk;
pub(crate) use chunks::{KIND_FLOAT, KIND_HISTOGRAM};
pub(crate) use files::{
    CODEC_COLUMN, COUNT_COLUMN, DATA_COLUMN, KIND_COLUMN, MAX_MS_COLUMN, MIN_MS_COLUMN, SERIES_COLUMN, TIMES_COLUMN, USES_COLUMN,
    WINDOW_COLUMN,
};
pub use rollup::{Bucket, RollupWriter};
pub(crate) use series::{HELP_COLUMN, LABEL_PREFIX, METRIC_NAME_COLUMN, REST_COLUMN, TYPE_COLUMN, UNIT_COLUMN, is_dictionary};
pub use upload::EncodedBlock;

/// Length of the windows of blocks that are cut from the head and of 2 h blocks.
pub const DEFAULT_WINDOW_MS: i64 = 2 * 60 * 60 * 1000;

/// More samples than this are never put into one chunk, so that reading a part of a dense series stays cheap.
pub const MAX_SAMPLES_PER_CHUNK: usize = 1 << 16;

/// Size of all different label values, help texts and units of a block: readers address those of a column with 31 bits.
pub const MAX_LABEL_VALUES_BYTES: usize = 1 << 30;

/// What a block is written with. [`WriterConfig::new`] has the defaults.
#[derive(Clone, Debug)]
pub struct WriterConfig {
    /// Identity of the block.
    pub id: BlockId,
    /// When it is written, Unix milliseconds.
    pub created_ms: i64,
    /// See [`BlockMeta::precedence_ms`].
    pub precedence_ms: i64,
    /// Length of the windows at which chunks are cut.
    pub window_ms: i64,
    /// 0 for raw samples.
    pub resolution_ms: i64,
    /// How often the data has been compacted.
    pub level: u32,
    /// The blocks that are compacted into this one.
    pub sources: Vec<BlockId>,
    /// Which ingesters' logs the block covers.
    pub writers: Vec<WriterMark>,
    /// See [`BlockMeta::deletions_ms`].
    pub deletions_ms: i64,
    /// Series per row group of the table of series: at most [`WriterConfig::MAX_SERIES_PER_GROUP`]. Small groups make cold
    /// queries of one metric cheap, big ones store less.
    pub series_per_group: usize,
    /// Chunks per row group of the table of chunks.
    pub chunks_per_group: usize,
    /// Encoded size of a page of chunks: what is read at least to get at one chunk.
    pub page_bytes: usize,
    /// Labels that get a column of their own: the most frequent ones.
    pub label_columns: usize,
    /// Level of zstd over pages of chunk values; 0 stores them as the codec leaves them.
    pub values_zstd_level: i32,
}

impl WriterConfig {
    /// Upper limit of [`WriterConfig::series_per_group`]: readers number the values of a label in a group with 16 bits.
    pub const MAX_SERIES_PER_GROUP: usize = 1 << 15;

    /// A raw block of level 0 that is created now.
    pub fn new(created_ms: i64) -> Self {
        Self {
            id: BlockId::new(created_ms),
            created_ms,
            precedence_ms: created_ms,
            window_ms: DEFAULT_WINDOW_MS,
            resolution_ms: 0,
            level: 0,
            sources: Vec::new(),
            writers: Vec::new(),
            deletions_ms: 0,
            series_per_group: 1 << 13,
            chunks_per_group: 1 << 16,
            page_bytes: 128 << 10,
            label_columns: 255,
            values_zstd_level: 3,
        }
    }

    fn check(&self) -> Result<()> {
        let refuse = |reason: &str| Err(Error::invalid("block writer configuration", reason));
        if self.window_ms <= 0 {
            return refuse("window_ms must be above 0");
        }
        if self.series_per_group == 0 || self.series_per_group > Self::MAX_SERIES_PER_GROUP {
            return refuse("series_per_group must be from 1 to 32768");
        }
        if self.chunks_per_group == 0 || self.page_bytes == 0 {
            return refuse("chunks_per_group and page_bytes must be above 0");
        }
        if !(0..=22).contains(&self.values_zstd_level) {
            return refuse("values_zstd_level must be from 0 to 22");
        }
        Ok(())
    }
}

/// Collects the series of one block.
pub struct BlockWriter {
    config: WriterConfig,
    last_labels: Option<Labels>,
    series: series::SeriesTable,
    chunks: chunks::ChunkTable,
    exemplars: Vec<(u32, Exemplar)>,
    time_range_ms: Option<(i64, i64)>,
    /// Only downsampled blocks have it.
    rollup: Option<rollup::RollupTable>,
}

impl BlockWriter {
    /// An empty block.
    pub fn new(config: WriterConfig) -> Self {
        let chunks = chunks::ChunkTable::new(config.window_ms);
        Self {
            config,
            last_labels: None,
            series: series::SeriesTable::default(),
            chunks,
            exemplars: Vec::new(),
            time_range_ms: None,
            rollup: None,
        }
    }

    /// Identity of the block.
    pub fn id(&self) -> BlockId {
        self.config.id
    }

    /// Number of series so far.
    pub fn series(&self) -> usize {
        self.series.len()
    }

    /// Size of what is encoded so far: about what the files and this writer's memory will take.
    pub fn encoded_bytes(&self) -> usize {
        let rollup_bytes = self.rollup.as_ref().map_or(0, rollup::RollupTable::encoded_bytes);
        self.chunks.encoded_bytes() + self.series.memory_bytes() + rollup_bytes
    }

    /// Adds the next series. One without samples and exemplars is left out.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the series is not after the one before, if timestamps do not ascend or if the parts of `samples`
    /// do not fit each other; [`Error::Limit`] if the block has too many different label values. The writer is then as it was.
    pub fn push_series(&mut self, labels: &Labels, metadata: Option<&Metadata>, samples: &SampleBuf, exemplars: &[Exemplar]) -> Result<()> {
        self.config.check()?;
        if samples.is_empty() && exemplars.is_empty() {
            return Ok(());
        }
        self.add(labels, metadata, samples, exemplars).map(drop)
    }

    /// Adds the next series, even if it has no samples, and returns its row.
    fn add(&mut self, labels: &Labels, metadata: Option<&Metadata>, samples: &SampleBuf, exemplars: &[Exemplar]) -> Result<u32> {
        self.check_series(labels, samples, exemplars)?;
        let texts_bytes = labels.as_bytes().len() + metadata.map_or(0, |m| m.help.len() + m.unit.len());
        if self.series.values_bytes() + texts_bytes > MAX_LABEL_VALUES_BYTES {
            return Err(Error::Limit {
                limit: "size of label values in a block",
                allowed: MAX_LABEL_VALUES_BYTES as u64,
                what: labels.to_string().chars().take(200).collect(),
                remedy: "write the series as several blocks",
            });
        }
        let row = self.series.push(labels, metadata);
        self.chunks.push(row, samples);
        self.exemplars.extend(exemplars.iter().map(|e| (row, e.clone())));
        let times = samples.timestamps.first().into_iter().chain(samples.timestamps.last()).copied();
        for t in times.chain(exemplars.iter().map(|e| e.timestamp_ms)) {
            self.cover(t);
        }
        self.last_labels = Some(labels.clone());
        Ok(row)
    }

    /// Widens the block's range of time.
    fn cover(&mut self, t_ms: i64) {
        let (min, max) = self.time_range_ms.unwrap_or((t_ms, t_ms));
        self.time_range_ms = Some((min.min(t_ms), max.max(t_ms)));
    }

    /// As [`BlockWriter::push_series`] with chunks of another block that is cut at the same windows. They are taken as they are.
    ///
    /// # Errors
    /// [`Error::Invalid`] also if a chunk reaches over a border of windows or if windows do not ascend.
    pub fn push_encoded(
        &mut self,
        labels: &Labels,
        metadata: Option<&Metadata>,
        chunks: &[EncodedChunk<'_>],
        exemplars: &[Exemplar],
    ) -> Result<()> {
        self.config.check()?;
        if chunks.is_empty() && exemplars.is_empty() {
            return Ok(());
        }
        let windows: Option<Vec<i64>> = chunks.iter().map(|c| self.chunks.window_of(c)).collect();
        let Some(windows) = windows.filter(|w| w.is_sorted()) else {
            return Err(Error::invalid("chunks for a block", format!("{labels}: they do not fit windows of {} ms", self.config.window_ms)));
        };
        let row = self.add(labels, metadata, &SampleBuf::default(), exemplars)?;
        for (chunk, window) in chunks.iter().zip(windows) {
            self.chunks.push_encoded(row, window, chunk);
        }
        let times = chunks.iter().filter_map(EncodedChunk::time_range_ms).flat_map(|(first, last)| [first, last]);
        times.for_each(|t| self.cover(t));
        Ok(())
    }

    /// Encodes the files and uploads them. The block is complete in the store when this returns, and on a local disk it
    /// survives power loss if `store` is a [`crate::local::DurableLocal`]; the catalog does not know of it yet. Dropping the
    /// future leaves files without a catalog entry, which the compactor's cleaning removes.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is no series; [`Error::Store`] if the upload fails.
    pub async fn finish(self, store: &dyn ObjectStore, tenant: &TenantId) -> Result<BlockMeta> {
        let encoded = tokio::task::spawn_blocking(move || self.encode())
            .await
            .map_err(|e| Error::invalid("block", format!("encoding did not end: {e}")))??;
        encoded.upload(store, tenant).await?;
        Ok(encoded.meta)
    }

    /// Encodes the files without uploading them. Pure computation, of seconds for big blocks.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is no series.
    pub fn encode(self) -> Result<EncodedBlock> {
        upload::encode(self)
    }

    fn check_series(&self, labels: &Labels, samples: &SampleBuf, exemplars: &[Exemplar]) -> Result<()> {
        let refuse = |reason: String| Err(Error::invalid("series for a block", format!("{labels}: {reason}")));
        if let Some(last) = self.last_labels.as_ref().filter(|l| *l >= labels) {
            return refuse(format!("it does not sort after {last}, which was written before"));
        }
        if self.series.len() >= u32::MAX as usize {
            return refuse("a block holds at most 4294967295 series".into());
        }
        if samples.timestamps.len() != samples.values.len() {
            return refuse(format!("{} timestamps, but {} values", samples.timestamps.len(), samples.values.len()));
        }
        if let Some(w) = samples.timestamps.windows(2).find(|w| w[0] >= w[1]) {
            return refuse(format!("timestamps do not ascend: {} ms, then {} ms", w[0], w[1]));
        }
        let in_order = samples.histograms.is_sorted_by(|a, b| a.0 < b.0);
        if !in_order || samples.histograms.last().is_some_and(|(i, _)| *i as usize >= samples.len()) {
            return refuse("histograms do not ascend or lie beyond the samples".into());
        }
        if !exemplars.is_sorted_by_key(|e| e.timestamp_ms) {
            return refuse("exemplars are not in time order".into());
        }
        Ok(())
    }
}
