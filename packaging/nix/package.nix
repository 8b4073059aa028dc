# SPDX-License-Identifier: GPL-2.0
# The module for one kernel, called by the kernel's package set: linuxPackages.callPackage.
# Its build directory, kernel.dev, has the Rust metadata if the kernel was built with Rust.
{
  lib,
  kernel,
  kernelModuleMakeFlags ? kernel.makeFlags,
}:
kernel.stdenv.mkDerivation {
  pname = "apple-dma-pci";
  version = "0.1.0-${kernel.version}";
  src = ../..;

  nativeBuildInputs = kernel.moduleBuildDependencies;
  hardeningDisable = [
    "format"
    "pic"
  ];
  makeFlags = kernelModuleMakeFlags ++ [
    "KDIR=${kernel.dev}/lib/modules/${kernel.modDirVersion}/build"
  ];
  buildFlags = [ "modules" ];

  installPhase = ''
    runHook preInstall
    install -D -m 644 -t $out/lib/modules/${kernel.modDirVersion}/updates apple_dma_pci.ko
    runHook postInstall
  '';

  meta = {
    description = "DMA of passed-through PCI devices in guests on Apple Silicon";
    license = lib.licenses.gpl2Only;
    platforms = [
      "aarch64-linux"
      "x86_64-linux"
    ];
    # Linux 7.2 and 7.3, as in rust/kernel.mk.
    broken =
      !(kernel.withRust or false)
      || lib.versionOlder kernel.version "7.2"
      || lib.versionAtLeast kernel.version "7.4";
  };
}
