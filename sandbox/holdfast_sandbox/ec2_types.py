"""The instance types that the simulated cloud knows, and how EC2 describes them."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class InstanceType(BaseModel):
    """The shape of a machine; memory in MiB."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    provider: Literal["", "aws", "gcp", "azure"] = ""
    """The cloud that sells it; empty: all of them, as the sim types."""
    vcpus: int = Field(ge=1)
    memory_mib: int = Field(ge=1)
    gpu_name: str = ""
    gpu_count: int = Field(default=0, ge=0)
    gpu_memory_mib: int = Field(default=0, ge=0)
    network: str = "Up to 10 Gigabit"

    def describe(self, name: str) -> dict[str, Any]:
        """This type as an InstanceTypeInfo of DescribeInstanceTypes."""
        info: dict[str, Any] = {
            "InstanceType": name,
            "CurrentGeneration": True,
            "SupportedUsageClasses": ["on-demand", "spot"],
            "SupportedRootDeviceTypes": ["ebs"],
            "SupportedVirtualizationTypes": ["hvm"],
            "BareMetal": False,
            "Hypervisor": "nitro",
            "ProcessorInfo": {"SupportedArchitectures": ["x86_64"]},
            "VCpuInfo": {
                "DefaultVCpus": self.vcpus,
                "DefaultCores": max(1, self.vcpus // 2),
                "DefaultThreadsPerCore": min(2, self.vcpus),
            },
            "MemoryInfo": {"SizeInMiB": self.memory_mib},
            "NetworkInfo": {"NetworkPerformance": self.network},
        }
        if self.gpu_count:
            gpu = {
                "Name": self.gpu_name,
                "Manufacturer": "NVIDIA",
                "Count": self.gpu_count,
                "MemoryInfo": {"SizeInMiB": self.gpu_memory_mib},
            }
            info["GpuInfo"] = {"Gpus": [gpu], "TotalGpuMemoryInMiB": self.gpu_count * self.gpu_memory_mib}
        return info


# Figures of EC2's DescribeInstanceTypes as moto 5.2 records them; p3, which moto no longer lists, as in EC2's manual.
# sim1.* are ours: machines small enough to be pretended on a laptop.
KNOWN_TYPES: dict[str, InstanceType] = {
    "p5.48xlarge": InstanceType(
        provider="aws", vcpus=192, memory_mib=2097152, gpu_name="H100", gpu_count=8, gpu_memory_mib=81920, network="3200 Gigabit"
    ),
    "p4d.24xlarge": InstanceType(
        provider="aws", vcpus=96, memory_mib=1179648, gpu_name="A100", gpu_count=8, gpu_memory_mib=40960, network="4x 100 Gigabit"
    ),
    "p3.2xlarge": InstanceType(provider="aws", vcpus=8, memory_mib=62464, gpu_name="V100", gpu_count=1, gpu_memory_mib=16384),
    "g6.xlarge": InstanceType(provider="aws", vcpus=4, memory_mib=16384, gpu_name="L4", gpu_count=1, gpu_memory_mib=22888),
    # Azure's sizes, as its documentation of each series gives them
    "Standard_ND96isr_H100_v5": InstanceType(
        provider="azure", vcpus=96, memory_mib=1945600, gpu_name="H100", gpu_count=8, gpu_memory_mib=81920
    ),
    "Standard_ND96asr_v4": InstanceType(provider="azure", vcpus=96, memory_mib=921600, gpu_name="A100", gpu_count=8, gpu_memory_mib=40960),
    "Standard_NC24ads_A100_v4": InstanceType(
        provider="azure", vcpus=24, memory_mib=225280, gpu_name="A100", gpu_count=1, gpu_memory_mib=81920
    ),
    "Standard_NV36ads_A10_v5": InstanceType(
        provider="azure", vcpus=36, memory_mib=450560, gpu_name="A10", gpu_count=1, gpu_memory_mib=24576
    ),
    # Google's machine types, as "GPU machine types" of the Compute Engine documentation gives them
    "a2-highgpu-1g": InstanceType(provider="gcp", vcpus=12, memory_mib=87040, gpu_name="A100", gpu_count=1, gpu_memory_mib=40960),
    "a2-highgpu-8g": InstanceType(provider="gcp", vcpus=96, memory_mib=696320, gpu_name="A100", gpu_count=8, gpu_memory_mib=40960),
    "a3-highgpu-1g": InstanceType(provider="gcp", vcpus=26, memory_mib=239616, gpu_name="H100", gpu_count=1, gpu_memory_mib=81920),
    "a3-highgpu-8g": InstanceType(provider="gcp", vcpus=208, memory_mib=1916928, gpu_name="H100", gpu_count=8, gpu_memory_mib=81920),
    "g2-standard-4": InstanceType(provider="gcp", vcpus=4, memory_mib=16384, gpu_name="L4", gpu_count=1, gpu_memory_mib=24576),
    "sim1.small": InstanceType(vcpus=1, memory_mib=1024, gpu_name="Sim", gpu_count=1, gpu_memory_mib=1024),
    "sim1.large": InstanceType(vcpus=2, memory_mib=2048, gpu_name="Sim", gpu_count=2, gpu_memory_mib=1024),
}


def types_of(types: Mapping[str, InstanceType], provider: str) -> dict[str, InstanceType]:
    """Return those that a cloud sells."""
    return {name: kind for name, kind in types.items() if kind.provider in ("", provider)}
