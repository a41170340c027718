//! Dependency descriptor (RTP Payload Format For AV1, version 1.0.0, appendix A): which frames a frame needs, in a
//! header extension, for any codec and readable where the payload is encrypted.
//!
//! The structure comes with a keyframe only. The caller keeps it and gives it back for the packets that follow.

mod patch;

pub use patch::{ActiveTargets, DescriptorPatch};

/// Why bytes are no dependency descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum DescriptorError {
    /// Ends before its own fields do.
    #[error("dependency descriptor cut short")]
    Short,
    /// A field has a value that the format forbids.
    #[error("dependency descriptor malformed")]
    Malformed,
    /// The frame refers to a structure that the caller does not have, or that has no such template.
    #[error("dependency descriptor without its structure")]
    NoStructure,
}

/// What a frame is for one decode target (appendix A.8.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Indication {
    /// Not part of it.
    NotPresent,
    /// Part of it, and nobody needs the frame.
    Discardable,
    /// From here on, the decode target can be decoded without its older frames.
    Switch,
    /// Part of it, and later frames need it.
    Required,
}

impl Indication {
    /// From its two bits on the wire; higher ones do not count.
    pub const fn from_bits(bits: u32) -> Self {
        match bits & 3 {
            0 => Self::NotPresent,
            1 => Self::Discardable,
            2 => Self::Switch,
            _ => Self::Required,
        }
    }

    /// Its two bits on the wire.
    pub const fn bits(self) -> u32 {
        self as u32
    }
}

/// The frames that a frame needs, by how many frames back they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FrameDiffs {
    /// Bit n: the one n + 1 before.
    pub near: u64,
    /// Some are further back than 64.
    pub far: bool,
}

impl FrameDiffs {
    const fn add(&mut self, diff_minus_one: u32) {
        if diff_minus_one < u64::BITS {
            self.near |= 1 << diff_minus_one;
        } else {
            self.far = true;
        }
    }
}

/// The indications of one frame for up to 32 decode targets, two bits each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Indications(u64);

impl Indications {
    /// For one decode target.
    pub const fn of(self, decode_target: u8) -> Indication {
        Indication::from_bits((self.0 >> (2 * (decode_target & 31))) as u32)
    }

    const fn set(&mut self, decode_target: u8, bits: u32) {
        self.0 |= ((bits & 3) as u64) << (2 * (decode_target & 31));
    }
}

/// What frames of one kind have in common.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Template {
    spatial: u8,
    temporal: u8,
    indications: Indications,
    frame_diffs: FrameDiffs,
    chain_diffs: [u8; DependencyStructure::MAX_CHAINS],
}

/// The layers of a stream and the templates of its frames.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DependencyStructure {
    template_id_offset: u8,
    template_count: u8,
    templates: [Template; Self::MAX_TEMPLATES],
    decode_targets: u8,
    chains: u8,
    /// By decode target: the chain that protects it.
    protected_by: [u8; Self::MAX_DECODE_TARGETS],
    spatial_layers: u8,
    resolutions: Option<[(u16, u16); 4]>,
}

impl DependencyStructure {
    const MAX_TEMPLATES: usize = 64;
    const MAX_DECODE_TARGETS: usize = 32;
    const MAX_CHAINS: usize = 32;

    /// How many there are, 1..=32.
    pub const fn decode_targets(&self) -> u8 {
        self.decode_targets
    }

    /// How many there are, 0..=32.
    pub const fn chains(&self) -> u8 {
        self.chains
    }

    /// The chain whose frames a decode target needs, all of them.
    pub fn protected_by(&self, decode_target: u8) -> Option<u8> {
        if self.chains == 0 || decode_target >= self.decode_targets {
            return None;
        }
        self.protected_by.get(usize::from(decode_target)).copied()
    }

    /// Spatial layers, 1..=4.
    pub const fn spatial_layers(&self) -> u8 {
        self.spatial_layers
    }

    /// Width and height of a spatial layer, where they are given.
    pub fn resolution(&self, spatial: u8) -> Option<(u16, u16)> {
        if spatial >= self.spatial_layers {
            return None;
        }
        self.resolutions?.get(usize::from(spatial)).copied()
    }

    /// Highest spatial and temporal layer of a decode target.
    pub fn layers_of(&self, decode_target: u8) -> (u8, u8) {
        self.templates()
            .filter(|template| template.indications.of(decode_target) != Indication::NotPresent)
            .fold((0, 0), |(spatial, temporal), template| {
                (spatial.max(template.spatial), temporal.max(template.temporal))
            })
    }

    /// The decode targets of which all frames are in `decode_target` too, itself included; one bit each.
    pub fn part_of(&self, decode_target: u8) -> u32 {
        (0..self.decode_targets)
            .filter(|part| {
                self.templates().all(|template| {
                    template.indications.of(*part) == Indication::NotPresent
                        || template.indications.of(decode_target) != Indication::NotPresent
                })
            })
            .fold(0, |parts, part| parts | 1 << part)
    }

    fn templates(&self) -> impl Iterator<Item = &Template> {
        self.templates.iter().take(self.template_count.into())
    }

    fn template(&self, id: u8) -> Option<&Template> {
        let index = id.wrapping_sub(self.template_id_offset) & 63;
        if index >= self.template_count {
            return None;
        }
        self.templates.get(usize::from(index))
    }

    fn read(bits: &mut Bits<'_>) -> Result<Self, DescriptorError> {
        let mut structure = Self {
            template_id_offset: bits.read(6)? as u8,
            template_count: 0,
            templates: [Template::default(); Self::MAX_TEMPLATES],
            decode_targets: bits.read(5)? as u8 + 1,
            chains: 0,
            protected_by: [0; Self::MAX_DECODE_TARGETS],
            spatial_layers: 0,
            resolutions: None,
        };
        structure.read_layers(bits)?;
        let (templates, targets) = (structure.template_count, structure.decode_targets);
        for template in structure.templates.iter_mut().take(templates.into()) {
            for target in 0..targets {
                template.indications.set(target, bits.read(2)?);
            }
        }
        for template in structure.templates.iter_mut().take(templates.into()) {
            while bits.read(1)? == 1 {
                template.frame_diffs.add(bits.read(4)?);
            }
        }
        structure.read_chains(bits)?;
        if bits.read(1)? == 1 {
            let mut resolutions = [(0, 0); 4];
            for size in resolutions.iter_mut().take(structure.spatial_layers.into()) {
                let (width, height) = (bits.read(16)?, bits.read(16)?);
                // Sizes are written minus one; 65,536 does not fit and does not happen.
                *size = ((width as u16).saturating_add(1), (height as u16).saturating_add(1));
            }
            structure.resolutions = Some(resolutions);
        }
        Ok(structure)
    }

    fn read_layers(&mut self, bits: &mut Bits<'_>) -> Result<(), DescriptorError> {
        let (mut spatial, mut temporal) = (0, 0);
        loop {
            let slot = self
                .templates
                .get_mut(usize::from(self.template_count))
                .ok_or(DescriptorError::Malformed)?;
            (slot.spatial, slot.temporal) = (spatial, temporal);
            self.template_count += 1;
            match bits.read(2)? {
                0 => {}
                1 => temporal += 1,
                2 => (spatial, temporal) = (spatial + 1, 0),
                _ => break,
            }
            if spatial > 3 || temporal > 7 {
                return Err(DescriptorError::Malformed);
            }
        }
        self.spatial_layers = spatial + 1;
        Ok(())
    }

    fn read_chains(&mut self, bits: &mut Bits<'_>) -> Result<(), DescriptorError> {
        self.chains = bits.read_below(u32::from(self.decode_targets) + 1)? as u8;
        if self.chains == 0 {
            return Ok(());
        }
        for chain in self.protected_by.iter_mut().take(self.decode_targets.into()) {
            *chain = bits.read_below(self.chains.into())? as u8;
        }
        for template in self.templates.iter_mut().take(self.template_count.into()) {
            for diff in template.chain_diffs.iter_mut().take(self.chains.into()) {
                *diff = bits.read(4)? as u8;
            }
        }
        Ok(())
    }
}

/// The fields that every descriptor has: three bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DependencyHeader {
    /// First packet of a frame (of a spatial layer's frame).
    pub start_of_frame: bool,
    /// Last packet of it.
    pub end_of_frame: bool,
    /// Kind of the frame within the structure.
    pub template_id: u8,
    /// Counts frames, modulo 2^16.
    pub frame_number: u16,
    /// The descriptor carries a structure: a keyframe starts, or the layers change.
    pub has_structure: bool,
}

impl DependencyHeader {
    /// Reads the fixed fields; no structure is needed for them.
    pub fn parse(bytes: &[u8]) -> Result<Self, DescriptorError> {
        let (&[first, high, low], rest) =
            bytes.split_first_chunk().ok_or(DescriptorError::Short)?;
        Ok(Self {
            start_of_frame: first & 0x80 != 0,
            end_of_frame: first & 0x40 != 0,
            template_id: first & 0x3f,
            frame_number: u16::from_be_bytes([high, low]),
            has_structure: rest.first().is_some_and(|flags| flags & 0x80 != 0),
        })
    }
}

/// A descriptor, read with the structure it refers to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DependencyDescriptor {
    /// The fixed fields.
    pub header: DependencyHeader,
    /// Spatial layer.
    pub spatial: u8,
    /// Temporal layer.
    pub temporal: u8,
    /// What the frame is for each decode target.
    pub indications: Indications,
    /// The frames that it needs.
    pub frame_diffs: FrameDiffs,
    /// One bit per decode target that the sender still produces, where it says so.
    pub active_decode_targets: Option<u32>,
    /// A new structure: it replaces the one that the caller keeps. Rare, and large.
    pub structure: Option<DependencyStructure>,
    chain_diffs: [u8; DependencyStructure::MAX_CHAINS],
}

impl DependencyDescriptor {
    /// Reads a descriptor. `known` is the structure that came last.
    pub fn parse(
        bytes: &[u8],
        known: Option<&DependencyStructure>,
    ) -> Result<Self, DescriptorError> {
        let header = DependencyHeader::parse(bytes)?;
        let mut bits = Bits { bytes, at: 24 };
        let extended = bytes.len() > 3;
        let flags = if extended { bits.read(5)? } else { 0 };
        let own =
            if flags & 0x10 != 0 { Some(DependencyStructure::read(&mut bits)?) } else { None };
        let structure = own.as_ref().or(known).ok_or(DescriptorError::NoStructure)?;
        let all_targets = u32::MAX >> (32 - u32::from(structure.decode_targets.clamp(1, 32)));
        let mut active_decode_targets = own.is_some().then_some(all_targets);
        if flags & 0x08 != 0 {
            active_decode_targets = Some(bits.read(structure.decode_targets.into())?);
        }
        let template =
            structure.template(header.template_id).ok_or(DescriptorError::NoStructure)?;

        let mut indications = template.indications;
        if flags & 0x04 != 0 {
            indications = Indications::default();
            for target in 0..structure.decode_targets {
                indications.set(target, bits.read(2)?);
            }
        }
        let mut frame_diffs = template.frame_diffs;
        if flags & 0x02 != 0 {
            frame_diffs = FrameDiffs::default();
            loop {
                match bits.read(2)? {
                    0 => break,
                    size => frame_diffs.add(bits.read(4 * size)?),
                };
            }
        }
        let mut chain_diffs = template.chain_diffs;
        if flags & 0x01 != 0 {
            for diff in chain_diffs.iter_mut().take(structure.chains.into()) {
                *diff = bits.read(8)? as u8;
            }
        }
        let (spatial, temporal) = (template.spatial, template.temporal);
        Ok(Self {
            header,
            spatial,
            temporal,
            indications,
            frame_diffs,
            active_decode_targets,
            structure: own,
            chain_diffs,
        })
    }

    /// How many frames back the one before this one stands in a chain; `None` when this frame starts it anew, or
    /// when `chain` is not below 32.
    pub fn chain_diff(&self, chain: u8) -> Option<u8> {
        self.chain_diffs.get(usize::from(chain)).copied().filter(|diff| *diff > 0)
    }
}

/// Reads bits from the most significant on.
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    /// At most 32 bits.
    fn read(&mut self, count: u32) -> Result<u32, DescriptorError> {
        debug_assert!(count <= 32, "one word");
        let mut value = 0;
        for _ in 0..count {
            let byte = self.bytes.get(self.at / 8).ok_or(DescriptorError::Short)?;
            value = value << 1 | u32::from(byte >> (7 - self.at % 8) & 1);
            self.at += 1;
        }
        Ok(value)
    }

    /// `ns(n)` of the AV1 specification, section 4.10.7: a number below `n`, at most 33.
    fn read_below(&mut self, n: u32) -> Result<u32, DescriptorError> {
        let width = u32::BITS - n.leading_zeros();
        let short = (1 << width) - n;
        let value = self.read(width.saturating_sub(1))?;
        if value < short {
            return Ok(value);
        }
        Ok((value << 1) - short + self.read(1)?)
    }
}

#[cfg(test)]
mod tests;
