# SPDX-License-Identifier: GPL-2.0
# For NixOS; see docs/distributions.md. The flake is in a subdirectory of its repository:
#
#   inputs.apple-dma-pci.url = "git+file:///path/to/checkout?dir=packaging/nix";
#   ... modules = [ apple-dma-pci.nixosModules.default { hardware.apple-dma-pci.enable = true; } ];
{
  description = "DMA of passed-through PCI devices in guests on Apple Silicon";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { nixpkgs, ... }:
    let
      systems = nixpkgs.lib.genAttrs [
        "aarch64-linux"
        "x86_64-linux"
      ];
    in
    {
      nixosModules.default = ./module.nix;

      packages = systems (
        system:
        let
          pkgs = nixpkgs.legacyPackages.${system};
          kernel = pkgs.linuxPackages_latest.kernel.override { features.rust = true; };
        in
        {
          # The module for nixpkgs' newest kernel, which is built with Rust first.
          default = (pkgs.linuxPackagesFor kernel).callPackage ./package.nix { };
          tools = pkgs.rustPlatform.buildRustPackage {
            pname = "apple-dma-pci-tools";
            version = "0.1.0";
            src = ../..;
            buildAndTestSubdir = "tools";
            cargoRoot = "tools";
            cargoLock.lockFile = ../../tools/Cargo.lock;
          };
        }
      );
    };
}
