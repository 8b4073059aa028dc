# SPDX-License-Identifier: GPL-2.0
# For NixOS: the kernel module, in the initial root file system too, and its order.
{ config, lib, ... }:
let
  cfg = config.hardware.apple-dma-pci;
  parameters = lib.mapAttrsToList (name: value: "${name}=${toString value}") cfg.parameters;
in
{
  options.hardware.apple-dma-pci = {
    enable = lib.mkEnableOption "DMA of PCI devices that an Apple Silicon host passes through";
    parameters = lib.mkOption {
      type = lib.types.attrsOf (
        lib.types.oneOf [
          lib.types.int
          lib.types.str
        ]
      );
      default = { };
      example = {
        strict = 1;
      };
      description = "Parameters of the module; docs/parameters.md has all of them.";
    };
  };

  config = lib.mkIf cfg.enable {
    # nixpkgs builds kernels without Rust unless it is asked for.
    boot.kernelPatches = [
      {
        name = "rust";
        patch = null;
        features.rust = true;
      }
    ];
    boot.extraModulePackages = [ (config.boot.kernelPackages.callPackage ./package.nix { }) ];
    # Before the drivers of passed-through disks.
    boot.initrd.kernelModules = lib.mkBefore [ "apple_dma_pci" ];
    boot.extraModprobeConfig =
      builtins.readFile ../modprobe.conf
      + lib.optionalString (parameters != [ ]) ''
        options apple_dma_pci ${lib.concatStringsSep " " parameters}
      '';
  };
}
