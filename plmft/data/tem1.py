"""The scan of TEM-1 beta-lactamase (Stiffler et al. 2015), as it lies beside ESM-1v (Meier et al. 2021)."""

from plmft.data.download import RemoteFile
from plmft.data.source import Source

TABLE = "BLAT_ECOLX_Ranganathan2015_labeled.csv"
SOURCE = Source(
    folder="mutation_effects",
    names={"table": (f"{TABLE}.gz", TABLE), "wild_type": ("BLAT_ECOLX_wt.fasta",)},
    remote={
        "table": RemoteFile(
            TABLE,
            "https://raw.githubusercontent.com/facebookresearch/esm/2b369911bb5b4b0dda914521b9475cad1656b2ac/"
            f"examples/variant-prediction/data/{TABLE}",
            sha256="66bfe429429e4fea57485e74e84dd2459e442c037f37b79764da8ef63ed25d10",
            size_bytes=2_488_395,
        )
    },
    optional=("wild_type",),
)
# residues 24 to 286 of UniProt P62593: the mature enzyme
WILD_TYPE = (
    "HPETLVKVKDAEDQLGARVGYIELDLNSGKILESFRPEERFPMMSTFKVLLCGAVLSRVDAGQEQLGRRIHYSQNDLVEYSPVTEKHLTDGMTVRELCSAAITMSDN"
    "TAANLLLTTIGGPKELTAFLHNMGDHVTRLDRWEPELNEAIPNDERDTTMPAAMATTLRKLLTGELLTLASRQQLIDWMEADKVAGPLLRSALPAGWFIADKSGAG"
    "ERGSRGIIAALGPDGKPSRIVVIYTTGSQATMDERNRQIAEIGASLIKHW"
)
