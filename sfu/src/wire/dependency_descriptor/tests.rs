//! Descriptors are written bit by bit from the tables of the specification, then read.

use proptest::prelude::*;

use super::*;

/// Writes bits from the most significant on.
#[derive(Default)]
struct BitWriter {
    bytes: Vec<u8>,
    at: usize,
}

impl BitWriter {
    fn put(&mut self, count: u32, value: u32) {
        for bit in (0..count).rev() {
            if self.at.is_multiple_of(8) {
                self.bytes.push(0);
            }
            *self.bytes.last_mut().unwrap() |= ((value >> bit & 1) as u8) << (7 - self.at % 8);
            self.at += 1;
        }
    }

    /// The encoder of `ns(n)`: the values below `2^w - n` take a bit less.
    fn put_below(&mut self, n: u32, value: u32) {
        let width = n.ilog2() + 1;
        let short = (1 << width) - n;
        if value < short {
            self.put(width - 1, value);
        } else {
            self.put(width, value + short);
        }
    }
}

/// A structure in plain lists.
#[derive(Clone, Debug)]
struct Plan {
    offset: u32,
    /// (spatial, temporal) of each template, in the order of the specification.
    layers: Vec<(u8, u8)>,
    decode_targets: u32,
    chains: u32,
    /// Filled into every table, by counting on.
    seed: u32,
    resolutions: bool,
}

impl Plan {
    fn indication(&self, template: usize, target: u32) -> u32 {
        self.seed.wrapping_add(template as u32 * 7 + target * 3) % 4
    }

    fn protected_by(&self, target: u32) -> u32 {
        (self.seed.wrapping_add(target)) % self.chains
    }

    fn chain_diff(&self, template: usize, chain: u32) -> u32 {
        self.seed.wrapping_add(template as u32 + chain * 5) % 16
    }

    fn size(&self, spatial: u8) -> (u16, u16) {
        (160 << spatial, 90 << spatial)
    }

    fn spatial_layers(&self) -> u8 {
        self.layers.iter().map(|(spatial, _)| spatial + 1).max().unwrap()
    }

    fn write(&self, bits: &mut BitWriter) {
        bits.put(6, self.offset);
        bits.put(5, self.decode_targets - 1);
        for pair in self.layers.windows(2) {
            let idc = match (pair[1].0 - pair[0].0, pair[1].1) {
                (1, _) => 2,
                (_, temporal) if temporal > pair[0].1 => 1,
                _ => 0,
            };
            bits.put(2, idc);
        }
        bits.put(2, 3);
        for template in 0..self.layers.len() {
            for target in 0..self.decode_targets {
                bits.put(2, self.indication(template, target));
            }
        }
        for template in 0..self.layers.len() {
            for diff in 0..template % 3 {
                bits.put(5, 0x10 | diff as u32);
            }
            bits.put(1, 0);
        }
        bits.put_below(self.decode_targets + 1, self.chains);
        if self.chains > 0 {
            for target in 0..self.decode_targets {
                bits.put_below(self.chains, self.protected_by(target));
            }
            for template in 0..self.layers.len() {
                for chain in 0..self.chains {
                    bits.put(4, self.chain_diff(template, chain));
                }
            }
        }
        bits.put(1, self.resolutions.into());
        if self.resolutions {
            for spatial in 0..self.spatial_layers() {
                let (width, height) = self.size(spatial);
                bits.put(16, u32::from(width) - 1);
                bits.put(16, u32::from(height) - 1);
            }
        }
    }

    /// A whole descriptor with this structure, of the frame of `template`.
    fn descriptor(&self, template: usize, frame_number: u32) -> Vec<u8> {
        let mut bits = header(self.id(template), frame_number);
        bits.put(5, 0b10000);
        self.write(&mut bits);
        bits.bytes
    }

    fn id(&self, template: usize) -> u32 {
        (self.offset + template as u32) % 64
    }
}

fn header(template_id: u32, frame_number: u32) -> BitWriter {
    let mut bits = BitWriter::default();
    bits.put(2, 0b10);
    bits.put(6, template_id);
    bits.put(16, frame_number);
    bits
}

/// Two spatial layers with two temporal ones each, and a structure id that wraps.
fn plan() -> Plan {
    Plan {
        offset: 62,
        layers: vec![(0, 0), (0, 0), (0, 1), (1, 0), (1, 1)],
        decode_targets: 4,
        chains: 2,
        seed: 1,
        resolutions: true,
    }
}

#[test]
fn fixed_fields_need_no_structure() {
    let header = DependencyHeader::parse(&[0xc6, 0x01, 0x73]).unwrap();
    let expected = DependencyHeader {
        start_of_frame: true,
        end_of_frame: true,
        template_id: 6,
        frame_number: 0x173,
        has_structure: false,
    };
    assert_eq!(header, expected);
    assert!(DependencyHeader::parse(&[0x06, 0x01, 0x73, 0x80]).unwrap().has_structure);
    assert_eq!(DependencyHeader::parse(&[0x06, 0x01]), Err(DescriptorError::Short));
}

#[test]
fn a_frame_takes_what_its_template_says() {
    let plan = plan();
    let first = DependencyDescriptor::parse(&plan.descriptor(0, 7), None).unwrap();
    let structure = first.structure.unwrap();
    assert_eq!(first.active_decode_targets, Some(0b1111));
    assert_eq!((structure.decode_targets(), structure.chains()), (4, 2));
    assert_eq!(structure.spatial_layers(), 2);
    assert_eq!(structure.resolution(1), Some((320, 180)));
    assert_eq!(structure.resolution(2), None);
    assert_eq!((structure.protected_by(0), structure.protected_by(1)), (Some(1), Some(0)));
    assert_eq!(structure.protected_by(4), None);

    let bytes = header(plan.id(4), 8).bytes;
    let later = DependencyDescriptor::parse(&bytes, Some(&structure)).unwrap();
    assert_eq!((later.spatial, later.temporal), (1, 1));
    assert_eq!(later.active_decode_targets, None);
    assert_eq!(later.chain_diff(0), Some(5));
    assert_eq!(later.frame_diffs, FrameDiffs { near: 0b1, far: false }, "of its template");
    assert_eq!(later.indications.of(0), Indication::Discardable);
}

#[test]
fn custom_fields_win_over_the_template() {
    let plan = plan();
    let structure =
        DependencyDescriptor::parse(&plan.descriptor(0, 7), None).unwrap().structure.unwrap();
    let mut bits = header(plan.id(1), 9);
    bits.put(5, 0b01111);
    bits.put(4, 0b0101);
    for indication in [3, 2, 1, 0] {
        bits.put(2, indication);
    }
    for (size, diff) in [(1, 5), (3, 700)] {
        bits.put(2, size);
        bits.put(4 * size, diff);
    }
    bits.put(2, 0);
    bits.put(8, 200);
    bits.put(8, 0);
    let read = DependencyDescriptor::parse(&bits.bytes, Some(&structure)).unwrap();
    assert_eq!(read.active_decode_targets, Some(0b0101));
    let indications = [0, 1, 2, 3].map(|target| read.indications.of(target));
    let expected =
        [Indication::Required, Indication::Switch, Indication::Discardable, Indication::NotPresent];
    assert_eq!(indications, expected);
    assert_eq!((read.chain_diff(0), read.chain_diff(1)), (Some(200), None));
    assert_eq!(read.frame_diffs, FrameDiffs { near: 1 << 5, far: true }, "6 and 701 back");
    for len in 3..bits.bytes.len() {
        let cut = DependencyDescriptor::parse(&bits.bytes[..len], Some(&structure));
        assert!(len == 3 || cut == Err(DescriptorError::Short), "{len}");
    }
}

#[test]
fn a_frame_without_its_structure_is_an_error() {
    let bytes = header(1, 1).bytes;
    assert_eq!(DependencyDescriptor::parse(&bytes, None), Err(DescriptorError::NoStructure));
    let plan = plan();
    let structure =
        DependencyDescriptor::parse(&plan.descriptor(0, 7), None).unwrap().structure.unwrap();
    let unknown_template = header(plan.id(5), 8).bytes;
    assert_eq!(
        DependencyDescriptor::parse(&unknown_template, Some(&structure)),
        Err(DescriptorError::NoStructure)
    );
}

#[test]
fn structures_out_of_bounds_are_malformed() {
    struct Case {
        name: &'static str,
        /// `next_layer_idc` of the templates.
        layers: Vec<u32>,
    }
    let cases = [
        Case { name: "a fifth spatial layer", layers: vec![2, 2, 2, 2] },
        Case { name: "a ninth temporal layer", layers: vec![1; 8] },
        Case { name: "a 65th template", layers: vec![0; 64] },
    ];
    for case in cases {
        let mut bits = header(0, 1);
        bits.put(5, 0b10000);
        bits.put(11, 0);
        for idc in case.layers {
            bits.put(2, idc);
        }
        bits.put(2, 3);
        bits.put(32, 0);
        let read = DependencyDescriptor::parse(&bits.bytes, None);
        assert_eq!(read, Err(DescriptorError::Malformed), "{}", case.name);
    }
}

#[test]
fn a_patch_changes_number_and_mask_and_nothing_else() {
    let plan = plan();
    let structure =
        DependencyDescriptor::parse(&plan.descriptor(0, 7), None).unwrap().structure.unwrap();
    let mut custom = header(plan.id(1), 9);
    custom.put(5, 0b01111);
    custom.put(4, 0b1111);
    custom.put(8, 0b11_10_01_00);
    custom.put(2, 1);
    custom.put(4, 5);
    custom.put(2, 0);
    custom.put(16, 0x0304);
    let mut no_mask = header(plan.id(1), 9);
    no_mask.put(5, 0b00001);
    no_mask.put(16, 0x0304);
    struct Case {
        name: &'static str,
        bytes: Vec<u8>,
    }
    let cases = [
        Case { name: "three bytes", bytes: header(plan.id(2), 9).bytes },
        Case { name: "a structure", bytes: plan.descriptor(0, 9) },
        Case { name: "all custom", bytes: custom.bytes },
        Case { name: "custom without a mask", bytes: no_mask.bytes },
    ];
    for case in cases {
        let before = DependencyDescriptor::parse(&case.bytes, Some(&structure)).unwrap();
        for active in [None, Some(ActiveTargets { mask: 0b0011, count: 4 })] {
            let mut out = [0xff; 255];
            let patch = DescriptorPatch { frame_number: 0xabcd, active };
            let len = patch.apply(&case.bytes, &mut out).unwrap();
            assert!(len <= case.bytes.len() + DescriptorPatch::MAX_GROWTH, "{}", case.name);
            let mut expected = before.clone();
            expected.header.frame_number = 0xabcd;
            if active.is_some() {
                expected.active_decode_targets = Some(0b0011);
            }
            let after = DependencyDescriptor::parse(&out[..len], Some(&structure));
            assert_eq!(after.as_ref(), Ok(&expected), "{}", case.name);
            let short = patch.apply(&case.bytes, &mut out[..len - 1]);
            assert_eq!(short, Err(DescriptorError::Malformed), "{}", case.name);
        }
    }
}

fn any_plan() -> impl Strategy<Value = Plan> {
    let layers = prop::collection::vec((1u8..4, 1u8..4), 1..5).prop_map(|spatial| {
        // Per spatial layer: so many temporal layers, each with so many templates.
        let mut layers = Vec::new();
        for (spatial, (temporal, templates)) in (0u8..).zip(spatial) {
            for temporal in 0..temporal {
                layers.extend(std::iter::repeat_n((spatial, temporal), templates.into()));
            }
        }
        layers
    });
    (0u32..64, layers, 1u32..=32, 0u32..=32, any::<u32>(), any::<bool>()).prop_map(
        |(offset, layers, decode_targets, chains, seed, resolutions)| Plan {
            offset,
            layers,
            decode_targets,
            chains: chains.min(decode_targets),
            seed,
            resolutions,
        },
    )
}

proptest! {
    #[test]
    fn any_structure_reads_back(plan in any_plan(), frame_number: u16) {
        let bytes = plan.descriptor(0, frame_number.into());
        let first = DependencyDescriptor::parse(&bytes, None).unwrap();
        prop_assert_eq!(first.header.frame_number, frame_number);
        prop_assert!(first.header.has_structure);
        let structure = first.structure.unwrap();
        prop_assert_eq!(u32::from(structure.chains()), plan.chains);
        prop_assert_eq!(structure.spatial_layers(), plan.spatial_layers());
        for spatial in 0..plan.spatial_layers() {
            let size = plan.resolutions.then(|| plan.size(spatial));
            prop_assert_eq!(structure.resolution(spatial), size);
        }
        for target in 0..plan.decode_targets {
            let chain = (plan.chains > 0).then(|| plan.protected_by(target) as u8);
            prop_assert_eq!(structure.protected_by(target as u8), chain);
            let layers = (0..plan.layers.len())
                .filter(|template| plan.indication(*template, target) > 0)
                .map(|template| plan.layers[template])
                .fold((0, 0), |a, b| (a.0.max(b.0), a.1.max(b.1)));
            prop_assert_eq!(structure.layers_of(target as u8), layers);
        }
        for (template, layers) in plan.layers.iter().enumerate() {
            let bytes = header(plan.id(template), 1).bytes;
            let frame = DependencyDescriptor::parse(&bytes, Some(&structure)).unwrap();
            prop_assert_eq!((frame.spatial, frame.temporal), *layers);
            for target in 0..plan.decode_targets {
                let expected = match plan.indication(template, target) {
                    0 => Indication::NotPresent,
                    1 => Indication::Discardable,
                    2 => Indication::Switch,
                    _ => Indication::Required,
                };
                prop_assert_eq!(frame.indications.of(target as u8), expected);
            }
            for chain in 0..plan.chains {
                let diff = Some(plan.chain_diff(template, chain) as u8).filter(|diff| *diff > 0);
                prop_assert_eq!(frame.chain_diff(chain as u8), diff);
            }
        }
    }

    #[test]
    fn noise_never_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..150)) {
        let plan = plan();
        let structure = DependencyDescriptor::parse(&plan.descriptor(0, 7), None).unwrap().structure;
        let _ = DependencyDescriptor::parse(&bytes, structure.as_ref());
        let active = Some(ActiveTargets { mask: u32::MAX, count: 32 });
        let _ = DescriptorPatch { frame_number: 1, active }.apply(&bytes, &mut [0; 255]);
        if bytes.len() > 3 {
            bytes[3] |= 0x80;
        }
        if let Ok(DependencyDescriptor { structure: Some(read), .. }) =
            DependencyDescriptor::parse(&bytes, None)
        {
            let _ = (read.layers_of(255), read.resolution(255), read.protected_by(255));
        }
    }
}
