"""Areas that regions of clouds lie in: `eu-central-1` and `europe-west4` in `eu`. Pure.

The European Union is not Europe: London is `uk`, Zurich is `ch`, Oslo is `no`; `europe` is all of
them. Sources, read 2026-11-29:
docs.aws.amazon.com/global-infrastructure/latest/regions/aws-regions.html,
docs.cloud.google.com/vertex-ai/generative-ai/docs/learn/locations,
learn.microsoft.com/azure/reliability/regions-list. A region that is not listed lies in no area.
"""

from __future__ import annotations

_AREAS = {
    "eu": (
        "eu-central-1 eu-north-1 eu-south-1 eu-south-2 eu-west-1 eu-west-3 eusc-de-east-1 "
        "europe-central2 europe-north1 europe-north2 europe-southwest1 europe-west1 europe-west3 "
        "europe-west4 europe-west8 europe-west9 europe-west10 europe-west12 "
        "westeurope northeurope swedencentral francecentral francesouth germanywestcentral "
        "germanynorth italynorth polandcentral spaincentral austriaeast belgiumcentral denmarkeast"
    ),
    "uk": "eu-west-2 europe-west2 uksouth ukwest",
    "ch": "eu-central-2 europe-west6 switzerlandnorth switzerlandwest",
    "no": "norwayeast norwaywest",
    "us": (
        "us-east-1 us-east-2 us-west-1 us-west-2 us-gov-east-1 us-gov-west-1 "
        "us-central1 us-east1 us-east4 us-east5 us-south1 us-west1 us-west2 us-west3 us-west4 "
        "eastus eastus2 centralus northcentralus southcentralus westcentralus westus westus2 "
        "westus3"
    ),
    "ca": (
        "ca-central-1 ca-west-1 northamerica-northeast1 northamerica-northeast2 canadacentral "
        "canadaeast"
    ),
    "jp": "ap-northeast-1 ap-northeast-3 asia-northeast1 asia-northeast2 japaneast japanwest",
    "kr": "ap-northeast-2 asia-northeast3 koreacentral koreasouth",
    "in": "ap-south-1 ap-south-2 asia-south1 asia-south2 centralindia southindia westindia",
    "sg": "ap-southeast-1 asia-southeast1 southeastasia",
    "au": (
        "ap-southeast-2 ap-southeast-4 australia-southeast1 australia-southeast2 australiaeast "
        "australiasoutheast australiacentral"
    ),
    "br": "sa-east-1 southamerica-east1 brazilsouth",
}
_AREA_OF = {region: area for area, regions in _AREAS.items() for region in regions.split()}

_EUROPE = frozenset({"eu", "uk", "ch", "no"})

_INFERENCE = frozenset({"eu", "us", "us-gov", "apac", "jp", "au", "ca", "global"})
"""First words of Bedrock's inference profiles, which answer anywhere in that area
(docs.aws.amazon.com/bedrock/latest/userguide/inference-profiles-support.html, read 2026-11-29)."""


def lies_in(region: str, wanted: str) -> bool:
    """Whether the region is the wanted one, or lies in it."""
    area = _AREA_OF.get(region, region)
    return wanted in (region, area) or (wanted == "europe" and area in _EUROPE)


def inference_area(model: str) -> str | None:
    """The area in which Bedrock may answer for a model, beyond the region that is asked; None: it
    is that region alone. `unknown`: an application's own profile does not tell by its name."""
    if "application-inference-profile" in model:
        return "unknown"
    first = model.rpartition("/")[2].partition(".")[0]
    area = first if first in _INFERENCE else None
    return "us" if area == "us-gov" else area
